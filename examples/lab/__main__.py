"""Run the experiments and write the page of them.

    python -m examples.lab                          # all, in about half an hour on two cores
    python -m examples.lab sensitivity placement    # some
    python -m examples.lab --quick                  # on a small scale, in about a minute
    python -m examples.lab --full                   # as long as it takes

Interrupted and started again, it goes on with what is not done yet. Into --out come index.html,
and for each experiment its results as JSON and its pictures.
"""

import argparse
import sys
from pathlib import Path

from examples.lab import EXPERIMENTS
from examples.options import EMBEDDED, add_engine
from examples.program import run_program

INSTALL = "pip install -e '.[lab]'"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = parse(arguments)
    return run_program(
        "lab",
        lambda: run(options),
        INSTALL,
        "the same command goes on from here",
        expected=(RuntimeError,),  # of worker processes
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.lab",
        description="Try claims about BatchNorm again.",
        epilog=f"Experiments: {', '.join(EXPERIMENTS)}.",
    )
    add = parser.add_argument
    add("experiments", nargs="*", metavar="EXPERIMENT", help="which to run; all by default")
    scale = parser.add_mutually_exclusive_group()
    for budget, help in (("quick", "all in about a minute"), ("full", "as long as it takes")):
        scale.add_argument(
            f"--{budget}", dest="budget", action="store_const", const=budget, help=help
        )
    add("--out", type=Path, metavar="DIR", help="for results; runs/lab/BUDGET by default")
    add("--data", type=Path, default=EMBEDDED, metavar="DIR", help="folder of MNIST-format files")
    add_engine(parser)
    parser.set_defaults(budget="default")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    options.experiments = options.experiments or list(EXPERIMENTS)
    options.out = options.out or Path("runs/lab") / options.budget
    return options


def run(options: argparse.Namespace) -> int:
    """Say what comes, then import what it takes, which may last seconds, and do it."""
    print(f"{', '.join(options.experiments)}: {options.budget} scale, into {options.out}")
    from examples.lab import running

    running.run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
