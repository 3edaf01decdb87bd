"""The conformance suite from the command line.

    python -m npbn.testing TARGET               check an implementation
    python -m npbn.testing --command PROGRAM    check a program in any language, through a pipe
    python -m npbn.testing --list               show the behaviours
    python -m npbn.testing export DIR           write fixed cases for other languages
    python -m npbn.testing replay DIR TARGET    check an implementation on such cases

TARGET is package.module:object, such as npbn:BatchNorm1d, torch.nn:BatchNorm1d, or a class or
function of your own (see npbn.testing.protocol), or model.onnx, a file (see
npbn.testing.targets). Exit status: 0 checked and right, 1 wrong,
2 could not be checked, 130 interrupted, 141 not read to its end.
"""

import argparse
import sys

from npbn.io.ending import INTERRUPTED, run_program
from npbn.testing.convention_table import CONVENTIONS

TARGET = "package.module:object, or model.onnx"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {"export": _export, "replay": _replay}

    def work() -> int:
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        return _check(arguments)

    return run_program("npbn.testing", work, (ValueError, ImportError))


def _check(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m npbn.testing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", nargs="?", help=TARGET)
    parser.add_argument("--command", metavar="PROGRAM", help="and its arguments, as one word")
    parser.add_argument("--list", action="store_true", help="show the behaviours and end")
    parser.add_argument("--convention", choices=CONVENTIONS, help="of the running statistics")
    parser.add_argument("--examples", type=_count, default=50, metavar="N", help="of a behaviour")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="examples are drawn from")
    parser.add_argument("--only", default="", metavar="TEXT", help="behaviours that contain this")
    _add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if options.list:
        return _list(options.only)
    if (options.target is None) == (options.command is None):
        parser.error("expected either TARGET or --command PROGRAM")
    return _run(options)


def _list(only: str) -> int:
    from npbn.testing import find_behaviours

    for behaviour in find_behaviours(only):
        needs = [*behaviour.needs, *([f"rank {behaviour.rank}"] if behaviour.rank > 2 else [])]
        print(f"{behaviour.name}  ({', '.join(needs)})" if needs else behaviour.name)
    return 0


def _run(options: argparse.Namespace) -> int:
    """Check the target, print each result as it comes, and the verdict."""
    from npbn.testing import Check, Command
    from npbn.testing.report import row

    target = options.target if options.command is None else Command(options.command)
    names = ("examples", "seed", "only", "convention", "seconds", "limit")
    check, status = Check(target, **{name: getattr(options, name) for name in names}), None
    try:
        with check:
            if not options.json:
                print(check.report().header(), flush=True)
            for result in check:
                if not options.json:
                    print(row(result), flush=True)
    except KeyboardInterrupt:
        status = INTERRUPTED
    report = check.report()
    print(report.to_json() if options.json else report.summary(), flush=True)
    if status == INTERRUPTED:
        print(
            f"interrupted after {len(report.results)} of {report.behaviours} behaviours",
            file=sys.stderr,
        )
    return report.status if status is None else status


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=_seconds, default=10.0, metavar="S", help="a case may take"
    )
    parser.add_argument(
        "--limit", type=_seconds, default=1800.0, metavar="S", help="seconds for all of it"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to 1e6, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def _export(arguments: list[str]) -> int:
    from npbn.testing.export import export_cases

    parser = argparse.ArgumentParser(prog="python -m npbn.testing export")
    parser.add_argument("folder", metavar="DIR", help="to write the cases to")
    options = parser.parse_args(arguments)
    print(f"{export_cases(options.folder)} cases written to {options.folder}")
    return 0


def _replay(arguments: list[str]) -> int:
    from npbn.testing.protocol import CannotConstructError
    from npbn.testing.replay import ReplayReport, replay_cases

    parser = argparse.ArgumentParser(prog="python -m npbn.testing replay")
    parser.add_argument("folder", metavar="DIR", help="that export wrote")
    parser.add_argument("target", metavar="TARGET", help=TARGET)
    _add_limits(parser)
    options = parser.parse_args(arguments)
    try:
        limits = {"seconds": options.seconds, "limit": options.limit}
        report = ReplayReport(tuple(replay_cases(options.folder, options.target, **limits)))
    except CannotConstructError as error:
        print(f"{error}\nnot checked")
        return 2
    print(report)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
