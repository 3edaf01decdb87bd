"""The options that programs share, and their folders. They take neither npbn nor NumPy."""

import argparse
from collections.abc import Callable
from pathlib import Path

EMBEDDED = Path(__file__).parent / "data" / "mnist-5k"


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add --engine; without it :func:`engine.choose` leaves the engine as it is."""
    parser.add_argument(
        "--engine",
        choices=["numpy", "numba"],
        help="of npbn; if absent what the environment variable NPBN_ENGINE names, or numpy",
    )


def add_training(parser: argparse.ArgumentParser, program: str, epochs: int) -> None:
    """Add what decides a training run, and where it is kept."""
    add = parser.add_argument
    add("--network", choices=["mlp", "cnn"], default="mlp", help="npbn.MLP or npbn.CNN")
    add("--data", type=Path, default=EMBEDDED, metavar="DIR", help="folder of MNIST-format files")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"for results; None is a folder of runs/{program} for each kind of run",
    )
    add("--epochs", type=positive(int), default=epochs, metavar="N", help="passes over the images")
    add("--batch-size", type=positive(int), default=64, metavar="N", help="images a step")
    add("--lr", type=positive(float), default=0.01, metavar="RATE", help="learning rate of SGD")
    add(
        "--hidden-dim",
        type=positive(int),
        default=256,
        metavar="N",
        help="width of hidden Linear layers",
    )
    add("--dtype", choices=["float32", "float64"], default="float32", help="of the networks")
    add("--seed", type=seed, default=0, metavar="N", help="for weights and order of the images")
    add_engine(parser)
    add(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="for the state after each epoch, .npz or .safetensors, kept at the end; "
        "None is checkpoint.npz in --out, deleted at the end",
    )
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")


def positive(kind: type) -> Callable[[str], float]:
    """Return an argparse type that takes numbers above 0, integers of 32 bits or finite floats."""
    limit = 2**31 if kind is int else float("inf")

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < limit:
            raise argparse.ArgumentTypeError(
                f"expected a number above 0, below {limit}, got {text}"
            )
        return value

    convert.__name__ = kind.__name__  # argparse names it in its message
    return convert


def seed(text: str) -> int:
    """Return the seed of a generator, which NumPy takes from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def folder(program: str, options: argparse.Namespace, *more: str) -> Path:
    """Return the folder of a run: runs/PROGRAM/, by network, dtype, engine and name of the data."""
    parts = [options.network, options.dtype, *more]
    parts += [] if options.engine == "numpy" else [options.engine]
    parts += [] if options.data == EMBEDDED else [options.data.resolve().name]
    return Path("runs") / program / "-".join(parts)


def prepare_folder(out: Path) -> None:
    """Make the folder and see that it takes files, before hours of training and not after."""
    out.mkdir(parents=True, exist_ok=True)
    probe = out / ".writable"
    probe.touch()
    probe.unlink()
