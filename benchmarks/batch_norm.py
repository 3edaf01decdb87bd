"""BatchNorm alone: forward in training, forward and backward, eval, over sizes and data."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import normalisation, report, targets
from benchmarks.contenders import ENGINES, modules
from benchmarks.harness import Entry, Team
from benchmarks.normalisation import DATA, MODES, PLAIN

WORK = "batch_norm"
problem, prove = normalisation.problem, normalisation.prove
SHAPES = (
    (60, 100),
    (64, 256),
    (128, 512),
    (256, 256),
    (1024, 256),
    (1024, 1024),
    (4096, 1024),
    (16384, 1024),
)
IMAGES = ((64, 16, 28, 28), (8, 256, 14, 14), (32, 64, 28, 28), (64, 64, 56, 56))
# Shapes timed beside one whose sizes are multiples of 4, 8 and 64: one less, and one more.
NEIGHBOURS = {
    (64, 256): ((63, 255), (65, 257)),
    (64, 16, 28, 28): ((63, 15, 27, 29), (65, 17, 29, 29)),
}
DTYPES = ("float32", "float64")
CONTENDERS = (*ENGINES, "torch eager", "torch.compile", "jax.jit", "textbook NumPy", "floor")


def entry_name(contender: str, variant: Any) -> str:
    """Return the name of an entry: the contender, and its data unless they are plain, or shape."""
    return contender if variant == PLAIN else f"{contender}, {variant}"


def alone(engine: str) -> str:
    """Return the name of an engine of npbn that has one thread where the others have more."""
    return f"{engine}, 1 thread"


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write batch_norm.json, .md and .png into `out`."""
    contenders = report.without_compile(CONTENDERS) if quick else CONTENDERS
    shapes = (*SHAPES[1:5:3], *IMAGES[:1]) if quick else (*SHAPES, *IMAGES)
    dtypes = DTYPES[:1] if quick else DTYPES
    contests = []
    for count in threads:
        found = modules(*contenders)
        with_one = {alone(engine): found[engine] for engine in ENGINES if count > 1}
        with Team(__name__, found, count, with_one) as team:
            for dtype, mode, shape in product(dtypes, MODES, shapes):
                about = {"shape": list(shape), "dtype": dtype, "mode": mode}
                entries = entries_of(about, contenders, with_one)
                contests.append(team.contest(about, entries, 3 if quick else 15))
                report.progress(f"{shape} {dtype} {mode}", contests[-1])
    report.write(out, "batch_norm", contests, markdown(contests, contenders), draw)


def entries_of(
    about: Mapping[str, Any], contenders: Sequence[str], with_one: Iterable[str]
) -> dict[str, Entry]:
    """Return all contenders on plain data, and npbn's engines on the rest: data, shapes, threads.

    How fast the others are does not depend on the data; of shapes torch is timed too.
    """
    case = {**about, "data": PLAIN}
    entries = {name: Entry(name, case) for name in contenders}
    for name, data in product(ENGINES, DATA[1:]):
        entries[entry_name(name, data)] = Entry(name, {**about, "data": data})
    for name, shape in product(contenders[:3], NEIGHBOURS.get(tuple(about["shape"]), ())):
        entries[entry_name(name, shape)] = Entry(name, {**case, "shape": list(shape)})
    if megabytes(about) >= 1:
        entries |= {name: Entry(name, case) for name in with_one}
    return entries


def megabytes(contest: Mapping[str, Any]) -> float:
    """Return the size of the activations in MB, 2²⁰ bytes."""
    return int(np.prod(contest["shape"])) * np.dtype(contest["dtype"]).itemsize / 2**20


def markdown(contests: list[dict[str, Any]], contenders: tuple[str, ...]) -> str:
    """Return the tables."""
    parts = [targets.table(goals(contests)), report.losses(contests, contenders)]
    for count, dtype, mode in report.distinct(contests, "threads", "dtype", "mode"):
        these = [
            c for c in contests if (c["threads"], c["dtype"], c["mode"]) == (count, dtype, mode)
        ]
        title = f"{mode}, {dtype}, {report.threads(count)}"
        rows = {f"{tuple(c['shape'])}": c for c in these}
        parts.append(report.times_and_ratios(title, "shape", rows, contenders))
        parts.append(variants(rows))
        parts.append(neighbours(rows))
    return "\n".join(part for part in parts if part)


def variants(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the time on other data, and with one thread, in that of the same row."""
    names = [(engine, entry_name(engine, data)) for engine in ENGINES for data in DATA[1:]]
    if any(contest["threads"] > 1 for contest in rows.values()):
        names += [(engine, alone(engine)) for engine in ENGINES]
    lines = [
        [row, *(report.ratio_cell(contest, *pair) for pair in names)]
        for row, contest in rows.items()
    ]
    return report.table(["time relative to plain data", *(name for _, name in names)], lines)


def neighbours(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the time a value at shapes beside even ones, in that of the even one."""
    names = CONTENDERS[:3]
    lines = [
        [str(shape), *(number(time_a_value(contest, name, shape)) for name in names)]
        for contest in rows.values()
        for shape in NEIGHBOURS.get(tuple(contest["shape"]), ())
    ]
    head = ["time a value relative to the shape one more or less", *names]
    return report.table(head, lines) if lines else ""


def time_a_value(
    contest: Mapping[str, Any], contender: str, shape: tuple[int, ...]
) -> float | None:
    """Return the median time a value at `shape`, in that at the contest's own shape."""
    quartiles = report.ratio(contest, contender, entry_name(contender, shape))
    if quartiles is None:
        return None
    return float(quartiles[1] * np.prod(contest["shape"]) / np.prod(shape))


def number(ratio: float | None) -> str:
    """Write a ratio."""
    return "-" if ratio is None else f"{ratio:.2f}"


def goals(contests: list[dict[str, Any]]) -> list[targets.Goal]:
    """Return the targets in float32 with what was measured."""
    found: list[targets.Goal] = []
    for count in sorted({c["threads"] for c in contests}):
        mine = [c for c in contests if c["threads"] == count and c["dtype"] == "float32"]
        compiled_goals(targets.Goals(found, ENGINES[0], report.threads(count)), mine)
        numpy_goals(targets.Goals(found, ENGINES[1], report.threads(count)), mine)
    return found


def compiled_goals(goal: targets.Goals, contests: list[dict[str, Any]]) -> None:
    """Add those of the compiled engine: each shape by itself."""
    engine = goal.engine
    for contest in contests:
        shape, mode = tuple(contest["shape"]), contest["mode"]
        bounds = targets.IMAGES[mode] if len(shape) == 4 else targets.BATCH_NORM[mode].get(shape)
        if bounds is None and megabytes(contest) > 1:
            bounds = targets.LARGE
        if bounds is not None:
            ratio = report.median([contest], engine, "torch eager")
            goal.faster(f"{mode}, {shape}", "torch eager", *bounds, ratio)
        if contest["threads"] > 1 and megabytes(contest) >= 1:
            ratio = report.median([contest], engine, alone(engine))
            goal.faster(f"{mode}, {shape}", "one thread", *targets.TWO_THREADS, ratio)
        for beside in NEIGHBOURS.get(shape, ()):
            what = f"{mode}, a value at {beside}"
            ratio = time_a_value(contest, engine, beside)
            goal.within(what, f"a value at {shape}", *targets.NEIGHBOUR, ratio)


def numpy_goals(goal: targets.Goals, contests: list[dict[str, Any]]) -> None:
    """Add those of the NumPy engine, forward and backward: the least of each kind of shape."""
    contests = [c for c in contests if c["mode"] == "forward + backward"]
    vectors = [c for c in contests if len(c["shape"]) == 2]
    kinds = {
        "(64, 256)": ([c for c in vectors if c["shape"] == [64, 256]], targets.NUMPY_64_256),
        "up to 1 MB, the least": ([c for c in vectors if megabytes(c) <= 1], targets.NUMPY_SMALL),
        "beyond, the least": ([c for c in vectors if megabytes(c) > 1], targets.NUMPY_LARGE),
        "images, the least": ([c for c in contests if len(c["shape"]) == 4], targets.NUMPY_IMAGES),
    }
    for what, (chosen, aim) in kinds.items():
        ratio = min(report.ratios(chosen, goal.engine, "torch eager"), default=None)
        goal.faster(f"forward + backward, {what}", "torch eager", aim, aim, ratio)


def draw(contests: list[dict[str, Any]], path: Path) -> None:
    """Draw all speeds in torch eager's, against the size of (N, C), by mode and dtype."""
    from benchmarks import pictures

    contests = [c for c in contests if len(c["shape"]) == 2]
    count = min(c["threads"] for c in contests)
    dtypes = [dtype for (dtype,) in report.distinct(contests, "dtype")]
    base = report.base_of(contests)
    others = [name for name in CONTENDERS if name != base]
    figure, panels = pictures.panels(len(dtypes), len(MODES))
    for axes, (dtype, mode) in zip(panels.flat, product(dtypes, MODES), strict=True):
        these = [
            c for c in contests if (c["threads"], c["dtype"], c["mode"]) == (count, dtype, mode)
        ]
        these.sort(key=megabytes)
        pictures.relative(axes, [megabytes(c) for c in these], these, base, others)
        axes.set(title=f"{mode}, {dtype}")
    figure.supxlabel("activations, MB")
    figure.supylabel(f"speed in that of {base} ({report.threads(count)})")
    pictures.save(figure, panels, path)
