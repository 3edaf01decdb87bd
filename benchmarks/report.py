"""From the seconds of contests to statistics, JSON, Markdown tables and pictures."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import ENGINES
from benchmarks.machine import machine

Contest = Mapping[str, Any]

EXPLANATION = (
    "Times are medians over the rounds, with the minimum in brackets. npbn takes part twice, with "
    "its compiled engine (numba) and with its NumPy engine, and there is a table of ratios for "
    "each. A ratio is taken within each round, the contender's time in that of the engine, so that "
    "above 1 npbn is faster: the median over the rounds, with its quartiles in brackets. The floor "
    "is no contender but the work that no NumPy program can do without; its ratio is the other way "
    "round, npbn's time in the floor's. Every contender has run the work before it is timed: what "
    "is compiled is compiled by then."
)


# -- statistics ---------------------------------------------------------------------------------


def ratio(contest: Contest, base: str, other: str) -> np.ndarray | None:
    """Return the quartiles of `other`'s time in `base`'s, taken in each round.

    None if either was not timed.
    """
    seconds = contest["seconds"]
    if base not in seconds or other not in seconds:
        return None
    return np.percentile(np.divide(seconds[other], seconds[base]), (25, 50, 75))


def ratios(contests: Iterable[Contest], base: str, other: str, **about: Any) -> list[float]:
    """Return the median ratios of the contests that are as `about` says and timed both."""
    chosen = (c for c in contests if all(c[key] == value for key, value in about.items()))
    found = (ratio(contest, base, other) for contest in chosen)
    return [float(quartiles[1]) for quartiles in found if quartiles is not None]


def median(contests: Iterable[Contest], base: str, other: str, **about: Any) -> float | None:
    """Return the median ratio of the first contest that is as `about` says and timed both."""
    return next(iter(ratios(contests, base, other, **about)), None)


def distinct(contests: Iterable[Contest], *keys: str) -> list[tuple[Any, ...]]:
    """Return the combinations of values that occur, in order of appearance."""
    return list(dict.fromkeys(tuple(contest[key] for key in keys) for contest in contests))


# -- text ---------------------------------------------------------------------------------------


def threads(count: int) -> str:
    """Return "1 thread" or "2 threads"."""
    return f"{count} thread{'s' if count > 1 else ''}"


def duration(seconds: float) -> str:
    """Write a time with three digits: 6.12 µs, 263 µs, 1.42 ms."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1, "s")):
        if float(f"{seconds * factor:.3g}") < 1000 or unit == "s":
            break
    return f"{three_digits(seconds * factor)} {unit}"


def three_digits(number: float) -> str:
    """Write a number with three digits and no exponent: 0.0123, 1.50, 26.3, 1,420."""
    if not number:
        return "0"
    decimals = max(0, 2 - int(np.floor(np.log10(abs(float(f"{number:.3g}"))))))
    return f"{float(f'{number:.3g}'):,.{decimals}f}"


def time_cell(contest: Contest, name: str) -> str:
    """Return "median (minimum)", or why there is none."""
    if name in contest["refused"]:
        return contest["refused"][name].partition(":")[0]
    seconds = contest["seconds"].get(name)
    if not seconds:
        return "-"
    return f"{duration(np.median(seconds))} ({duration(min(seconds))})"


def ratio_cell(contest: Contest, base: str, other: str) -> str:
    """Return "median [lower quartile to upper]"."""
    quartiles = ratio(contest, base, other)
    if quartiles is None:
        return "-"
    low, median, high = quartiles
    return f"{median:.2f} [{low:.2f} to {high:.2f}]"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def times_and_ratios(
    title: str, first: str, rows: Mapping[str, Contest], contenders: Sequence[str]
) -> str:
    """Return a heading, a table of times, one of ratios for each engine of npbn, and notes."""
    times = [[row, *(time_cell(c, name) for name in contenders)] for row, c in rows.items()]
    tables = [table([first, *contenders], times)]
    for engine in timed_engines(rows.values()):
        others = [name for name in contenders if name != engine]
        lines = []
        for row, contest in rows.items():
            pairs = [(name, engine) if name == "floor" else (engine, name) for name in others]
            lines.append([row, *(ratio_cell(contest, *pair) for pair in pairs)])
        head = [f"{engine} in the floor" if name == "floor" else name for name in others]
        tables.append(table([f"{first}, ratio to {engine}", *head], lines))
    notes = [
        f"- {first} {row}, {name}: {note}\n"
        for row, contest in rows.items()
        for name, note in contest["notes"].items()
    ]
    return f"## {title}\n\n" + "\n".join([*tables, "".join(notes)]).rstrip("\n") + "\n"


def timed_engines(contests: Iterable[Contest]) -> list[str]:
    """Return the engines of npbn that any of the contests has timed."""
    contests = list(contests)
    return [name for name in ENGINES if any(c["seconds"].get(name) for c in contests)]


def base_of(contests: Iterable[Contest]) -> str:
    """Return whom pictures compare all others with: torch eager, or npbn where it is absent."""
    timed = any(contest["seconds"].get("torch eager") for contest in contests)
    return "torch eager" if timed else ENGINES[1]


def losses(contests: Sequence[Contest], contenders: Sequence[str]) -> str:
    """Return as a section in how many contests each engine was slower than each other contender.

    The floor does less than the work, so nobody is faster.
    """
    lines = []
    for engine in timed_engines(contests):
        for other in contenders:
            found = {
                describe(contest): quartiles[1]
                for contest in contests
                if other not in (engine, "floor")
                and (quartiles := ratio(contest, engine, other)) is not None
            }
            if found:
                lost = sum(median < 1 for median in found.values())
                worst = min(found, key=found.get)
                least = f"{found[worst]:.2f} ({worst})"
                lines.append([engine, other, f"{lost} of {len(found)}", least])
    head = ["engine", "against", "slower in", "least ratio, and where"]
    return f"## Where npbn is slower\n\n{table(head, lines)}"


def describe(contest: Contest) -> str:
    """Return what a contest was about: "shape (64, 256), dtype float32, mode eval, 1 thread"."""
    results = ("seconds", "notes", "refused", "memory", "rounds", "threads")
    parts = [
        f"{key} {tuple(value) if isinstance(value, list) else value}".replace("_", " ")
        for key, value in contest.items()
        if key not in results
    ]
    return ", ".join([*parts, threads(contest["threads"])])


# -- output -------------------------------------------------------------------------------------


def without_compile(contenders: Sequence[str]) -> tuple[str, ...]:
    """Leave torch.compile out, and say so: it compiles for longer than --quick should take."""
    print("torch.compile: skipped by --quick", flush=True)
    return tuple(name for name in contenders if name != "torch.compile")


def progress(what: str, contest: Contest) -> None:
    """Print a line on a contest that has ended, of contenders as such: a comma has a variant."""
    engines = timed_engines([contest])
    if not engines:
        print(f"{what}: npbn was not timed", flush=True)
        return
    base, seconds = engines[0], contest["seconds"]
    parts = [f"{base} {duration(np.median(seconds[base]))}"]
    others = [name for name in seconds if name != base and "," not in name]
    parts += [f"{name} {ratio(contest, base, name)[1]:.2f}x" for name in others]
    print(f"{what}, {threads(contest['threads'])}: {', '.join(parts)}", flush=True)


def write(
    out: Path,
    name: str,
    contests: list[dict[str, Any]],
    tables: str,
    draw: Callable[[list[dict[str, Any]], Path], None],
    explanation: str = EXPLANATION,
) -> None:
    """Write the results as JSON, their tables as Markdown and their picture into `out`."""
    facts = machine()
    text = json.dumps(
        {"program": name, "machine": facts, "contests": contests}, indent=1, ensure_ascii=False
    )
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    where = ", ".join(f"{key} {value}" for key, value in facts.items())
    text = f"# {name}\n\n{where}.\n\n{explanation}\n\n{tables}"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    draw(contests, out / f"{name}.png")
    print(f"written to {out}: {name}.json, {name}.md, {name}.png", flush=True)


def percent(share: float | None, sign: str = "") -> str:
    """Write a share."""
    return "-" if share is None else f"{100 * share:{sign}.1f} %"


def signed(seconds: float) -> str:
    """Write a time that may be negative."""
    if not np.isfinite(seconds):
        return "-"
    return f"{'-' if seconds < 0 else ''}{duration(abs(seconds))}"


def bandwidth(per_byte: float) -> str:
    """Write bytes per second."""
    return f"{three_digits(1e-9 / per_byte)} GB/s" if per_byte else "beyond measure"
