"""The state of mnist_mpi's runs, in a file that one rank writes and any number go on from."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from mnist_mpi_report import Run
from mnist_resume import checksums, read
from mpi4py import MPI

import npbn

WORLD = MPI.COMM_WORLD
# What decides a run's numbers, beside the number of ranks. Of --data it is the images that count.
DECISIVE = ["network", "epochs", "batch_size", "lr", "hidden_dim", "dtype", "seed", "engine"]


class Progress:
    """The states of all runs in a file, which rank 0 writes after each epoch and alone reads.

    Parameters
    ----------
    options : argparse.Namespace
        With `resume`, what the file holds is read here.
    data : ArrayDataset
        The training images.

    Raises
    ------
    CheckpointError
        If the file is of a run with other options; on rank 0, as the next.
    OSError
        If it cannot be written.
    """

    def __init__(self, options: argparse.Namespace, data: npbn.ArrayDataset) -> None:
        self.path: Path = options.checkpoint or options.out / "checkpoint.npz"
        self.keep = options.checkpoint is not None
        self.options = {name: getattr(options, name) for name in DECISIVE}
        self.options["data"] = checksums(data)
        self.runs: dict[str, Any] = {}
        if WORLD.rank:
            return
        if options.resume:
            self.runs = read(self.path, "mnist_mpi", self.options)
        self._write()  # if it cannot be written, that shows before hours of training, not after

    def share(self) -> None:
        """Hand what rank 0 has read to the others: they need not see the file."""
        self.runs = WORLD.bcast(self.runs)

    def restore(self, run: Run, net: npbn.Module, optimizer: npbn.SGD, order: Any) -> int:
        """Put a run where the file left it; return the epochs that are done."""
        state = self.runs.get(run.key)
        if state is None:
            return 0
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        order.bit_generator.state = state["order"]
        for name, values in state["records"].items():
            setattr(run, name, values.tolist())
        return state["epoch"]

    def save(self, run: Run, net: npbn.Module, optimizer: npbn.SGD, order: Any) -> None:
        """Save all runs so far, this one as it is; on rank 0."""
        if WORLD.rank:
            return
        self.runs[run.key] = {
            "epoch": len(run.by),
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "order": order.bit_generator.state,
            "records": {name: np.array(values) for name, values in run.records().items()},
        }
        self._write()

    def _write(self) -> None:
        npbn.save(self.runs, self.path, metadata={"mnist_mpi": self.options})

    def finish(self) -> None:
        """Delete the file, unless it was asked for."""
        if not self.keep:
            self.path.unlink(missing_ok=True)
