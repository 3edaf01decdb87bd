"""The state of a run of mnist_compare in a file, so that a killed run ends as it would have."""

import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import npbn
from npbn.checkpoint import load, save
from npbn.errors import CheckpointError

# What decides a run's numbers. --data does too: of that it is the images that count.
DECISIVE = ["network", "epochs", "batch_size", "lr", "hidden_dim", "dtype", "seed", "threads"]
DECISIVE += ["engine"]  # two of them round differently
RECORDS = ["losses", "seconds", "differences"]


def checksums(data: npbn.ArrayDataset) -> str:
    """Tell images and labels from others, wherever they lie."""
    found = [zlib.crc32(np.ascontiguousarray(part, np.float32)) for part in data.arrays]
    return "images and labels of checksums {} and {}".format(*found)


def read(path: Path, program: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint holds, nothing if there is none yet.

    Raises
    ------
    CheckpointError
        If it is not one of this program's, or of a run with other options.
    """
    if not path.exists():
        print(f"there is no {path} yet: this run starts at the beginning", flush=True)
        return {}
    found = load(path)
    saved = found.metadata.get(program)
    if saved is None:
        raise CheckpointError(f"{path} is no checkpoint of {program}")
    others = [
        f"--{name.replace('_', '-')} was {saved.get(name)}, is {mine}"
        for name, mine in options.items()
        if saved.get(name) != mine
    ]
    if others:
        raise CheckpointError(
            f"--resume: {path} is of a run with other options: {'; '.join(others)}"
        )
    return dict(found)


class Progress:
    """The networks of one run, saved after each epoch.

    Parameters
    ----------
    options : argparse.Namespace
        Of mnist_compare; with `resume`, what the file holds is read here.
    data : ArrayDataset
        The training images.
    reference : module or None
        Whether torch takes part.

    Raises
    ------
    CheckpointError
        If the file is of a run with other options.
    OSError
        If it cannot be written.
    """

    def __init__(self, options: Any, data: npbn.ArrayDataset, reference: ModuleType | None) -> None:
        self.path: Path = options.checkpoint or options.out / "checkpoint.npz"
        self.keep = options.checkpoint is not None
        self.options = {name: getattr(options, name) for name in DECISIVE}
        self.options["data"] = checksums(data)
        self.options["no_torch"] = reference is None
        self.runs = read(self.path, "mnist_compare", self.options) if options.resume else {}
        self._write()  # if it cannot be written, that shows before hours of training, not after

    def restore(self, run) -> int:
        """Put a network's run where the file left it; return the epochs that are done."""
        state = self.runs.get(run.title)
        if state is None:
            return 0
        run.net.load_state_dict(state["net"])
        run.optimizers["npbn"].load_state_dict(state["optimizer"])
        if run.model is not None:
            run.model.load_state_dict(_tensors(state["torch"]["net"]))
            run.optimizers["torch"].load_state_dict(_tensors(state["torch"]["optimizer"]))
        run.rng.bit_generator.state = state["order"]
        for name in RECORDS:
            record = {key: values.tolist() for key, values in state[name].items()}
            setattr(run, name, record)
        return state["epoch"]

    def save(self, run, epoch: int) -> None:
        """Save all networks so far, this one as it is after `epoch`."""
        state = {
            "epoch": epoch,
            "net": run.net.state_dict(),
            "optimizer": run.optimizers["npbn"].state_dict(),
            "order": run.rng.bit_generator.state,
        }
        if run.model is not None:
            optimizer = run.optimizers["torch"].state_dict()
            state["torch"] = {"net": run.model.state_dict(), "optimizer": optimizer}
        for name in RECORDS:
            record = getattr(run, name)
            state[name] = {key: np.array(values) for key, values in record.items()}
        self.runs[run.title] = state
        self._write()

    def _write(self) -> None:
        save(self.runs, self.path, metadata={"mnist_compare": self.options})

    def finish(self) -> None:
        """Delete the file, unless it was asked for."""
        if not self.keep:
            self.path.unlink(missing_ok=True)


def _tensors(state: Any) -> Any:
    """Turn the arrays in a nested state into torch's tensors."""
    import torch

    if isinstance(state, dict):
        return {key: _tensors(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_tensors(value) for value in state]
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state
