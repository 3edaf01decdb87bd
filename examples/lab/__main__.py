"""Run the experiments and write the page of them.

    python -m examples.lab                          # all, within a quarter of an hour on two cores
    python -m examples.lab sensitivity placement    # some
    python -m examples.lab --quick                  # on a small scale, within a minute
    python -m examples.lab --full                   # as long as it takes

Interrupted and started again, it goes on with what is not done yet. Into --out come index.html,
and for each experiment its results as JSON and its pictures.
"""

import argparse
import shlex
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from time import monotonic

import numpy as np

import npbn
from npbn.errors import NpbnError
from npbn.io.atomic import replace

INSTALL = "pip install -e '.[lab]'"

try:
    from tqdm import tqdm

    from examples import engine
    from examples.lab import EXPERIMENTS, networks, page
    from examples.lab.experiment import Digits, experiment
    from examples.lab.results import Results
    from examples.lab.workers import Workers
except ModuleNotFoundError as error:
    sys.exit(f"the laboratory needs {error.name}: {INSTALL}")

EMBEDDED = Path(__file__).parents[1] / "data" / "mnist-5k"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = parse(arguments)
    try:
        run(options)
    except (NpbnError, OSError, RuntimeError, BrokenProcessPool) as error:
        print(f"lab: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lab: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


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
    for budget, help in (("quick", "all within a minute"), ("full", "as long as it takes")):
        scale.add_argument(
            f"--{budget}", dest="budget", action="store_const", const=budget, help=help
        )
    add("--out", type=Path, metavar="DIR", help="for results; runs/lab/BUDGET by default")
    add("--data", type=Path, default=EMBEDDED, metavar="DIR", help="folder of MNIST-format files")
    engine.add_option(parser)
    parser.set_defaults(budget="default")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    options.experiments = options.experiments or list(EXPERIMENTS)
    options.out = options.out or Path("runs/lab") / options.budget
    return options


def run(options: argparse.Namespace) -> None:
    """Run what is missing, draw, and write the page."""
    engine.choose(options)
    options.out.mkdir(parents=True, exist_ok=True)
    data = fingerprint(Digits.read(options.data))
    results = {}
    for name in EXPERIMENTS:
        made_with = {
            "budget": options.budget,
            "data": data,
            "npbn": npbn.__version__,
            "engine": options.engine,
            "code": code(name),
        }
        trials = experiment(name).trials(options.budget)
        results[name] = Results(options.out / f"{name}.json", made_with, trials)
    asked = {name: results[name] for name in options.experiments}
    for name, found in asked.items():
        if aside := found.clear_the_way():
            print(f"{found.path} {found.obstacle}: moved aside, to {aside.name}, and run again")
        elif done := len(found.records):
            print(f"{name}: {done} of {len(found.trials)} trials are there already")
        found.save()  # a folder that takes no files shows before hours of work and not after

    with Workers(str(options.data), options.engine) as workers:
        drawings = {}
        for name in finished(asked, workers):
            tell(name, results[name])
            drawings[name] = workers.draw(name, results[name].records)
        for name, found in results.items():  # those that earlier runs have left
            if name in drawings:
                continue
            if found.obstacle:
                print(f"left out of the page: {found.path} {found.obstacle}")
            elif not found.missing:
                drawings[name] = workers.draw(name, found.records)
        pictures = {name: drawing.result() for name, drawing in drawings.items()}

    for name, drawn in pictures.items():
        for picture in drawn:
            path = options.out / f"{name}_{picture.name}.png"
            replace(str(path), lambda name, data=picture.light: Path(name).write_bytes(data))
    in_order = {name: (results[name], pictures[name]) for name in EXPERIMENTS if name in pictures}
    flags = [] if options.budget == "default" else [f"--{options.budget}"]
    flags += [] if options.engine == "numpy" else ["--engine", options.engine]
    flags += [] if options.data == EMBEDDED else ["--data", str(options.data)]
    page.write(options.out / "index.html", in_order, shlex.join(flags))
    print(f"\nwritten to {options.out}: index.html, and results and pictures of each experiment")


def finished(asked: dict[str, Results], workers: Workers) -> Iterator[str]:
    """Run all trials that are missing; yield the name of an experiment when it has them all."""
    jobs = [
        (name, trial)
        for name, found in asked.items()
        # The longest first: at the end no core waits long for the other.
        for trial in sorted(found.missing, key=experiment(name).seconds, reverse=True)
    ]
    waiting = {name: len(found.missing) for name, found in asked.items()}
    yield from (name for name, count in waiting.items() if count == 0)
    total, saved = sum(experiment(name).seconds(trial) for name, trial in jobs), monotonic()
    bar = tqdm(total=total, disable=None, bar_format="{l_bar}{bar}| {elapsed}, {remaining} left")
    try:
        with bar:
            for name, trial, result in workers.run(jobs):
                asked[name].add(trial, result)
                waiting[name] -= 1
                bar.set_description(name, refresh=False)
                bar.update(experiment(name).seconds(trial))
                if waiting[name] == 0 or monotonic() > saved + 1:
                    asked[name].save()
                    saved = monotonic()
                if waiting[name] == 0:
                    yield name
    finally:
        for found in asked.values():
            found.save()


def tell(name: str, found: Results) -> None:
    """Print the verdict."""
    about = experiment(name)
    try:
        verdict = about.verdict(found.records)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RuntimeError(
            f"{found.path} has results that {name} cannot read ({error!r}); move it away to run "
            "the experiment again"
        ) from error
    tqdm.write(
        f"\n{about.TITLE}. {about.SOURCE}: {about.CLAIM}. Seen: {verdict.seen}. "
        f"{verdict.outcome.capitalize()}."
    )


def code(name: str) -> str:
    """Return what tells the code of an experiment from an earlier one."""
    files = (Path(networks.__file__), Path(experiment(name).__file__))
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}"


def fingerprint(digits: Digits) -> str:
    """Return what tells one data set from another."""
    sums = [zlib.crc32(np.ascontiguousarray(array)) for array in digits]
    counts = f"{len(digits.train_labels)} and {len(digits.test_labels)} images"
    return f"{counts} ({'-'.join(f'{number:08x}' for number in sums)})"


if __name__ == "__main__":
    sys.exit(main())
