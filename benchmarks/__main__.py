"""Run one of the programs, or all: ``python -m benchmarks [NAME] [--out DIR] [--quick]``."""

import argparse
import importlib
from pathlib import Path

PROGRAMS = ("accuracy",)  # modules of this package, each with run(out, quick)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("program", nargs="?", help=f"{', '.join(PROGRAMS)}; all of them if absent")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="seconds, for a first look")
    options = parser.parse_args()
    if options.program not in (None, *PROGRAMS):
        parser.error(f"unknown program {options.program!r}: there is {', '.join(PROGRAMS)}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    for name in PROGRAMS if options.program is None else [options.program]:
        importlib.import_module(f"benchmarks.{name}").run(options.out, options.quick)


if __name__ == "__main__":
    main()
