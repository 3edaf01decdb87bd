"""The conformance suite from the command line.

    python -m npbn.testing TARGET               check an implementation
    python -m npbn.testing export DIR           write fixed cases for other languages
    python -m npbn.testing replay DIR TARGET    check an implementation on such cases

TARGET is package.module:object, such as npbn:BatchNorm1d, torch.nn:BatchNorm1d, or a class or
function of your own (see npbn.testing.protocol). Exit status: 0 correct, 1 not, 2 no answer.
"""

import argparse
import importlib
import inspect
import os
import sys
import warnings
from collections import Counter

import npbn
from npbn.errors import DataError
from npbn.testing import (
    Implementation,
    check_batch_norm,
    class_implementation,
    function_implementation,
    npbn_implementation,
)

try:
    from tqdm import tqdm
except ModuleNotFoundError:
    sys.exit("npbn.testing needs tqdm: pip install 'npbn[testing]'")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.simplefilter("ignore")  # the implementation's: what it does wrong is reported
    commands = {"export": _export, "replay": _replay}
    try:
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        return _check(arguments)
    except (DataError, ValueError, OSError) as error:
        print(f"npbn.testing: error: {error}", file=sys.stderr)
        return 2


def load_target(target: str) -> Implementation:
    """Import package.module:object and find out how to check it.

    Raises
    ------
    ValueError
        If it cannot be imported, or is neither a class nor a function.
    """
    module_name, _, name = target.partition(":")
    if not name:
        raise ValueError(f"expected TARGET as package.module:object, got {target!r}")
    if os.getcwd() not in sys.path:  # a file beside the caller, as python -m finds it
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ValueError(f"cannot import {target!r}: {type(error).__name__}: {error}") from error
    if isinstance(found, Implementation):
        return found
    if inspect.isclass(found):
        if issubclass(found, npbn.Module):
            return npbn_implementation(found)
        torch = sys.modules.get("torch")
        if torch is not None and issubclass(found, torch.nn.Module):
            from npbn.testing.torch_adapter import torch_implementation

            return torch_implementation(found)
        return class_implementation(found)
    if callable(found):
        return function_implementation(found)
    raise ValueError(f"{target} is {type(found).__name__}: expected a class or a function")


def _check(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m npbn.testing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="package.module:object")
    parser.add_argument("--examples", type=_count, default=50, metavar="N", help="of a behaviour")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="examples are drawn from")
    parser.add_argument("--only", default="", metavar="TEXT", help="behaviours that contain this")
    parser.add_argument("--seconds", type=float, default=10.0, help="a case may take")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    report = check_batch_norm(
        load_target(options.target),
        examples=options.examples,
        seed=options.seed,
        only=options.only,
        seconds=options.seconds,
        progress=lambda found: tqdm(found, leave=False, unit="behaviour", disable=None),
    )
    print(report.to_json() if options.json else report.table())
    return 0 if report.correct else 1


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
    from npbn.testing.replay import replay_cases

    parser = argparse.ArgumentParser(prog="python -m npbn.testing replay")
    parser.add_argument("folder", metavar="DIR", help="that export wrote")
    parser.add_argument("target", metavar="TARGET", help="package.module:object")
    options = parser.parse_args(arguments)
    results = replay_cases(options.folder, load_target(options.target))
    for measure in ("correct", "contract"):
        verdicts = [getattr(result, measure) for result in results]
        counts = Counter(verdict.status for verdict in verdicts)
        worst = max((verdict.worst or 0.0 for verdict in verdicts), default=0.0)
        told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        print(f"{measure}: {told}; largest error {worst:.3g} of its tolerance")
    failed = [result for result in results if result.correct.status == "failed"]
    for result in failed:
        print(f"{result.name} ({result.description}): {result.correct.text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
