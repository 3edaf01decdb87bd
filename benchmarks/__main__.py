"""Run one of the programs, or all: ``python -m benchmarks [NAME] [--quick] [--threads 1,2]``."""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

from benchmarks import PROGRAMS
from benchmarks.harness import allowed_cpus
from examples.options import prepare_folder
from examples.program import run_program

INSTALL = "pip install -e '.[benchmarks]'"


def main() -> int:
    """Read the command line and run; return the exit status."""
    options = parse()
    return run_program(
        "benchmarks",
        lambda: run(options),
        INSTALL,
        f"{options.out} has the results of the programs that were done",
    )


def parse() -> argparse.Namespace:
    """Read the command line, and see that what is measured can be written."""
    parser = Parser("python -m benchmarks", description=__doc__)
    parser.add_argument("program", nargs="?", help=f"{', '.join(PROGRAMS)}; all of them if absent")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="seconds, for a first look")
    parser.add_argument(
        "--threads",
        type=numbers,
        metavar="1,2",
        help="measure with so many, one after the other (default: 1, and 2 if there are CPUs)",
    )
    options = parser.parse_args()
    if options.program not in (None, *PROGRAMS):
        parser.error(f"unknown program {options.program!r}: there is {', '.join(PROGRAMS)}")
    for needed in ("matplotlib", "hypothesis"):  # before an hour of measuring, not after
        if importlib.util.find_spec(needed) is None:
            parser.error(f"{needed} is not installed: {INSTALL}")
    cpus = len(allowed_cpus())
    options.threads = options.threads or [1, 2][:cpus]
    if max(options.threads) > cpus:
        allowed = f"{cpus} CPU{'s' if cpus > 1 else ''}"
        parser.error(f"--threads {max(options.threads)}: this process may use {allowed}")
    try:
        prepare_folder(options.out)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    return options


def run(options: argparse.Namespace) -> int:
    """Run the programs, one after the other."""
    for name in PROGRAMS if options.program is None else [options.program]:
        print(f"{name}: results go to {options.out}")
        module = importlib.import_module(f"benchmarks.{name}")
        module.run(options.out, options.quick, options.threads)
    return 0


class Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def numbers(text: str) -> list[int]:
    """Read thread counts such as "1,2"."""
    counts = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if 0 in counts:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,2, got {text!r}")
    return counts


if __name__ == "__main__":
    sys.exit(main())
