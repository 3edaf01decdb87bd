"""Train a network in npbn and in PyTorch, step by step, with BatchNorm and without.

Both libraries start from the same weights and see the same batches. Shown are the training
loss, the time and the largest differences per epoch, then what the trained networks do in
training and in evaluation mode. Pictures and results.json go to --out.

    python examples/mnist_compare.py                    # 5,000 digits, under a minute
    python examples/mnist_compare.py --network cnn      # convolutions, a good minute
    python examples/mnist_compare.py --dtype float64    # agreement to 1e-9, or exit status 1
    python examples/mnist_compare.py --engine numba     # npbn compiled, and what that gains
    python examples/mnist_compare.py --data DIR         # MNIST, Fashion-MNIST, ...
    python examples/mnist_compare.py --resume           # go on with a run that was killed
"""

import argparse
import importlib.util
import sys

from options import add_training, positive
from program import run_program

INSTALL = "pip install -e '.[examples]'"


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    after = "the same command with --resume goes on from here"
    return run_program("mnist_compare", lambda: compare(options), INSTALL, after)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train a network with and without BatchNorm, in npbn and in PyTorch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_training(parser, "mnist_compare", epochs=10)
    parser.add_argument(
        "--download", action="store_true", help="fetch MNIST into --data first (torchvision)"
    )
    parser.add_argument(
        "--threads", type=positive(int), default=1, metavar="N", help="for each library"
    )
    parser.add_argument("--no-torch", action="store_true", help="train npbn alone")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> int:
    """Say what comes, then import what it takes, which may last seconds, and do it."""
    if not options.no_torch and importlib.util.find_spec("torch") is None:
        print(f"PyTorch is not installed: npbn trains alone ({INSTALL} adds it)")
        options.no_torch = True
    print(
        f"{options.network.upper()} in {'npbn' if options.no_torch else 'npbn and PyTorch'}, "
        f"{options.dtype}, {options.threads} thread(s), batches of {options.batch_size}, "
        f"learning rate {options.lr}",
        flush=True,
    )
    import mnist_training

    return mnist_training.compare(options)


if __name__ == "__main__":
    sys.exit(main())
