"""Train a network on several processes, with BatchNorm synchronised over them and without.

Every batch is split into a shard a rank. With synchronised BatchNorm the losses are those of one
process; with a BatchNorm of each rank's own they are not. To show it, the same ranks train once
more in smaller groups, down to one rank alone. A picture and results.json go to --out.

    mpiexec -n 2 python examples/mnist_mpi.py                    # 5,000 digits, 1 and 2 ranks
    mpiexec -n 4 python examples/mnist_mpi.py                    # 1, 2 and 4 ranks
    mpiexec -n 2 python examples/mnist_mpi.py --network cnn      # convolutions, under a minute
    mpiexec -n 2 python examples/mnist_mpi.py --dtype float64    # agreement to 1e-9, or status 1
    mpiexec -n 4 python examples/mnist_mpi.py --resume           # go on with a run of 2 ranks

mpiexec comes with ``pip install -e '.[examples,mpi]'``; without it there is one rank.
"""

import argparse
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import groupby

from options import add_training
from program import INTERRUPTED, UNREAD, run_program

INSTALL = "pip install -e '.[examples,mpi]'"


def main(arguments: list[str] | None = None) -> int:
    """Train and compare; return the exit status."""
    after = "the same command with --resume goes on from here"
    return run_program("mnist_mpi", lambda: on_all_ranks(arguments), INSTALL, after)


def on_all_ranks(arguments: list[str] | None) -> int:
    """Say which ranks there are, import the rest, and train; what all ranks meet, rank 0 says."""
    try:
        from mpi4py import MPI
    except RuntimeError as error:  # there is mpi4py and no MPI library
        name = f"an MPI library ({str(error).splitlines()[0]})"
        raise ModuleNotFoundError(str(error), name=name) from error
    world = MPI.COMM_WORLD
    try:
        options = parse(arguments, world.rank)
        present = enumerate(world.allgather((MPI.Get_processor_name(), os.getpid())))
        if world.rank == 0:
            print(places(list(present)), flush=True)
        import mnist_mpi_training

        return mnist_mpi_training.run(options)
    except KeyboardInterrupt:
        if world.rank == 0:
            raise
        return INTERRUPTED


def parse(arguments: list[str] | None, rank: int) -> argparse.Namespace:
    """Read the command line; what is wrong with it, rank 0 says."""
    parser = argparse.ArgumentParser(
        description="Train a network on several processes: mpiexec -n 2 python mnist_mpi.py",
        epilog="A batch is of all ranks together. --resume takes any number of ranks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_training(parser, "mnist_mpi", epochs=3)
    if rank == 0:
        return parser.parse_args(arguments)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return parser.parse_args(arguments)


def places(ranks: list[tuple[int, tuple[str, int]]]) -> str:
    """Name every rank's process: of a run that it ends, MPICH's launcher names no ranks."""
    nodes = [
        f"on {node} " + ", ".join(f"rank {rank} is process {pid}" for rank, (_, pid) in there)
        for node, there in groupby(ranks, key=lambda place: place[1][0])
    ]
    return f"{len(ranks)} rank{'s' * (len(ranks) > 1)}: {'; '.join(nodes)}"


if __name__ == "__main__":
    status = main()
    if status in (INTERRUPTED, UNREAD):  # MPI's own end would wait for exchanges broken off
        os._exit(status)
    sys.exit(status)
