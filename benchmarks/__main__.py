"""Run one of the programs, or all: ``python -m benchmarks [NAME] [--quick] [--threads 1,2]``."""

import argparse
import importlib.util
from pathlib import Path
from typing import NoReturn

from benchmarks.harness import allowed_cpus

# Modules of this package, each with run(out, quick, threads).
PROGRAMS = ("batch_norm", "train_step", "inference", "conv", "scaling", "footprint", "accuracy")
PROGRAMS += ("wild",)


def main() -> None:
    """Read the command line and run."""
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
            parser.error(f"{needed} is not installed: pip install -e '.[benchmarks]'")
    cpus = len(allowed_cpus())
    threads = options.threads or [1, 2][:cpus]
    if max(threads) > cpus:
        allowed = f"{cpus} CPU{'s' if cpus > 1 else ''}"
        parser.error(f"--threads {max(threads)}: this process may use {allowed}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    for name in PROGRAMS if options.program is None else [options.program]:
        importlib.import_module(f"benchmarks.{name}").run(options.out, options.quick, threads)


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
    main()
