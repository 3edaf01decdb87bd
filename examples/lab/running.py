"""Running what is missing, on all cores: the trials, then the pictures, then the page."""

import argparse
import shlex
import zlib
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from tqdm import tqdm

import npbn
from examples import engine
from examples.lab import EXPERIMENTS, gallery, networks, page, report
from examples.lab.drawing import Rendered
from examples.lab.experiment import Digits, experiment
from examples.lab.results import Results
from examples.lab.workers import Workers
from examples.options import EMBEDDED, prepare_folder


def run(options: argparse.Namespace) -> None:
    """Run what is missing, draw, and write the page."""
    engine.choose(options)
    prepare_folder(options.out)
    results = stored(options)
    asked = {name: results[name] for name in options.experiments}
    for name, found in asked.items():
        if aside := found.clear_the_way():
            print(f"{found.path} {found.obstacle}: moved aside, to {aside.name}, and run again")
        elif done := len(found.records):
            print(f"{name}: {done} of {len(found.trials)} trials are there already")
        found.save()  # a folder that takes no files shows before hours of work and not after

    with Workers(str(options.data), options.engine) as workers:
        for name in finished(asked, workers):
            tqdm.write(report.text(name, results[name]))
        for found in results.values():  # those that earlier runs have left
            if found.obstacle:
                print(f"left out of the page: {found.path} {found.obstacle}")
        whole = {n: found for n, found in results.items() if not (found.obstacle or found.missing)}
        pictures = pictures_of(whole, options.out, workers)

    in_order = {name: (found, pictures[name]) for name, found in whole.items()}
    page.write(options.out / "index.html", in_order, flags(options))
    print(f"\nwritten to {options.out}: index.html, and results and pictures of each experiment")


def stored(options: argparse.Namespace) -> dict[str, Results]:
    """Return the results that the folder has of each experiment."""
    data, results = fingerprint(Digits.read(options.data)), {}
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
    return results


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
    try:
        with progress(total, "{l_bar}{bar}| {elapsed}, {remaining} left") as bar:
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


def pictures_of(
    whole: dict[str, Results], folder: Path, workers: Workers
) -> dict[str, list[Rendered]]:
    """Return the pictures of each experiment; those are drawn whose results are new."""
    pictures = {name: gallery.read(folder, name, found) for name, found in whole.items()}
    drawings: dict[Any, str] = {
        workers.draw(name, whole[name].records): name
        for name, there in pictures.items()
        if there is None
    }
    if drawings:
        print(f"\ndrawing: {', '.join(drawings.values())}")
    with progress(len(drawings), "drawing {bar}| {n} of {total}, {elapsed}") as bar:
        for drawing in as_completed(drawings):
            name = drawings[drawing]
            pictures[name] = drawing.result()
            gallery.write(folder, name, whole[name], pictures[name])
            bar.update()
    return pictures


def progress(total: float, form: str) -> tqdm:
    """Return a bar that is gone when its work is done; none where errors go to no terminal."""
    return tqdm(total=total, disable=None, leave=False, bar_format=form)


def flags(options: argparse.Namespace) -> str:
    """Return what stood on the command line besides the names of experiments."""
    given = [] if options.budget == "default" else [f"--{options.budget}"]
    given += [] if options.engine == "numpy" else ["--engine", options.engine]
    given += [] if options.data == EMBEDDED else ["--data", str(options.data)]
    return shlex.join(given)


def code(name: str) -> str:
    """Return what tells the code of an experiment from an earlier one."""
    files = (Path(networks.__file__), Path(experiment(name).__file__))
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}"


def fingerprint(digits: Digits) -> str:
    """Return what tells one data set from another."""
    sums = [zlib.crc32(np.ascontiguousarray(array)) for array in digits]
    counts = f"{len(digits.train_labels)} and {len(digits.test_labels)} images"
    return f"{counts} ({'-'.join(f'{number:08x}' for number in sums)})"
