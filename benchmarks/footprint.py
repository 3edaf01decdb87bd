"""What npbn costs before it computes: import, size, memory, files, compiling; beside torch."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import deployment, first_calls, report, targets
from benchmarks.contenders import ENGINES, modules
from benchmarks.deployment import LOADING, START_TO_ANSWER
from benchmarks.harness import ROOT, environment
from benchmarks.memory import RESET

# What is imported, and the packages whose size that is.
IMPORTS = {
    "numpy": "import numpy",
    "npbn numpy": "import npbn",
    "npbn numba": "import npbn; npbn.set_engine('numba')",
    "torch": "import torch",
}
PACKAGES = {"npbn numpy": ("npbn",), "npbn numba": ("npbn", "numba"), "torch": ("torch",)}
CONTENDERS = (*ENGINES, "torch eager")
BATCHES = (64, 4096)
MB = 2**20
EXPLANATION = (
    "Import: in a fresh interpreter, taken in turn; the median, with the minimum in brackets. "
    "Size: the files of the package and of all that it requires, without compiled bytecode. "
    "Memory: physical memory of a process of its own, one thread; a step's own is its peak over "
    "what was there with network and batch in place. Code that is loaded at the first step is in "
    "it, memory that earlier work has left free is not; what the compiled engine (numba) compiles "
    "is on disk by then. Its first calls are measured in processes of their own: in a new "
    "environment, where they compile, and in later ones, which find that on disk. MB are 2²⁰ bytes."
)
IMPORT = """
from time import perf_counter
start = perf_counter()
{}
print(perf_counter() - start)
"""


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write footprint.json, .md and .png into `out`; `threads` does not matter."""
    names = [name for name in IMPORTS if all(map(importlib.util.find_spec, PACKAGES.get(name, ())))]
    for package, name in (("numba", "npbn numba"), ("torch", "torch")):
        if name not in names:
            print(f"{package} is not installed: skipped")
    with tempfile.TemporaryDirectory() as scratch:
        files = deployment.measure(python, Path(scratch), names, quick)
    contest = {
        "threads": 1,
        "seconds": import_times(names, 3 if quick else 15),
        "refused": {},
        "bytes": {name: installed_size(*PACKAGES[name]) for name in names if name in PACKAGES},
        "files": files,
        "memory": memory(BATCHES[:1] if quick else BATCHES, names),
        "first_calls": {},
    }
    if "npbn numba" in names:
        contest["first_calls"] = first_calls.measure(python, 1 if quick else 3)
    report.progress("import", contest)
    report.write(out, "footprint", [contest], markdown(contest), draw, EXPLANATION)


def python(*arguments: str, **variables: str) -> str:
    """Run Python in a fresh process with one thread; return what it prints.

    Raises
    ------
    ChildProcessError
        If it fails; with the last line of its error.
    """
    command = [sys.executable, *arguments]
    env = environment(1) | variables
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an import would compile anew each time
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise ChildProcessError(f"a process of this program ended: {last}")
    return done.stdout


def import_times(names: list[str], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that importing each takes; a first import, not counted, warms caches."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + 1):
        for name in names[:: -1 if i % 2 else 1]:
            time = float(python("-c", IMPORT.format(IMPORTS[name])))
            if i > 0:
                seconds[name].append(time)
    return seconds


def installed_size(*packages: str) -> int:
    """Return the bytes of the packages' files and of those that they require."""
    from packaging.requirements import Requirement

    wanted, seen, total = list(packages), set(), 0
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
        total += size_of_files(name, distribution)
    return total


def size_of_files(name: str, distribution: importlib.metadata.Distribution) -> int:
    """Return the bytes of a distribution's files; npbn's own from where it is imported."""
    if name == "npbn":  # may be installed as a mere link
        files = Path(importlib.util.find_spec(name).origin).parent.rglob("*")
    else:
        files = (Path(file.locate()) for file in distribution.files or ())
    # Not what Python and numba have compiled.
    return sum(f.stat().st_size for f in files if f.parent.name != "__pycache__" and f.is_file())


def memory(batches: tuple[int, ...], names: list[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Return the bytes as batch: contender: moment."""
    if not RESET.exists():
        print("memory: this system does not tell a process its peak: skipped")
        return {}
    found = modules(*(name for name in CONTENDERS if name.removesuffix(" eager") in names))

    def moments(module: str, batch: int) -> dict[str, int]:
        return json.loads(python("-m", "benchmarks.memory", module, "train_step", case(batch)))

    for module in found.values():  # compiles what is kept on disk
        moments(module, batches[0])
    return {
        str(batch): {name: moments(module, batch) for name, module in found.items()}
        for batch in batches
    }


def case(batch: int) -> str:
    """Return a step's case as JSON."""
    return json.dumps({"batch": batch, "batch_norm": True, "width": 256})


def step_memory(contest: dict[str, Any], batch: str, name: str) -> int:
    """Return the bytes that a step takes at its peak, over network and batch."""
    moments = contest["memory"][batch][name]
    return moments["peak"] - moments["ready"]


def markdown(contest: dict[str, Any]) -> str:
    """Return the tables."""
    parts = [targets.table(goals(contest)), "## Import\n"]
    lines = [
        [name, report.time_cell(contest, name), report.ratio_cell(contest, "numpy", name)]
        for name in contest["seconds"]
    ]
    parts.append(report.table(["package", "import time", "in numpy's"], lines))
    parts.append("## Installed size, with what it requires\n")
    lines = [[name, megabytes(size)] for name, size in contest["bytes"].items()]
    parts.append(report.table(["package", "size"], lines))
    for what, contenders in contest["files"].items():
        parts.append(f"## {what[0].upper()}{what[1:]}\n")
        view = {"seconds": contenders, "refused": {}}
        lines = [
            [name, report.time_cell(view, name), report.ratio_cell(view, ENGINES[1], name)]
            if ENGINES[1] in contenders
            else [name, report.time_cell(view, name), report.ratio_cell(view, "torch, .pt", name)]
            for name in contenders
        ]
        base = ENGINES[1] if ENGINES[1] in contenders else "torch"
        parts.append(report.table(["program", "time", f"in {base}'s"], lines))
    if contest["first_calls"]:
        parts.append(first_calls.table(contest["first_calls"]))
    parts.append("## Memory of a training step, 784-256-256-10 with BatchNorm\n")
    lines = [
        [
            batch,
            name,
            *(megabytes(moments[key]) for key in ("imported", "ready", "peak")),
            megabytes(step_memory(contest, batch, name)),
        ]
        for batch, contenders in contest["memory"].items()
        for name, moments in contenders.items()
    ]
    head = ["batch", "contender", "imported", "with network and batch", "peak", "the step's own"]
    parts.append(report.table(head, lines))
    return "\n".join(parts)


def megabytes(size: float) -> str:
    """Write a size in MB."""
    return f"{report.three_digits(size / MB)} MB"


def goals(contest: dict[str, Any]) -> list[targets.Goal]:
    """Return the targets with what was measured."""
    found: list[targets.Goal] = []
    goal = targets.Goals(found, ENGINES[1], "1 thread")
    ratio = report.median([contest], "numpy", ENGINES[1])
    goal.within("import npbn", "import numpy", 1.3, 1.1, ratio)
    if contest["files"]:
        answer = {"seconds": contest["files"][START_TO_ANSWER]}
        ratio = report.median([answer], ENGINES[1], "torch")
        goal.faster(START_TO_ANSWER, "torch", 5, 5, ratio)
        loading = {"seconds": contest["files"][LOADING]}
        for name in ("npbn, .pt", "npbn, .safetensors"):
            ratio = report.median([loading], name, "torch, .pt")
            goal.faster(f"{LOADING}, {name}", "torch.load with mmap", 1, 1, ratio)
    for batch, contenders in contest["memory"].items():
        for engine in ENGINES:
            if engine in contenders and "torch eager" in contenders:
                memory_goals(targets.Goals(found, engine, "1 thread"), contest, batch)
    return found


def memory_goals(goal: targets.Goals, contest: dict[str, Any], batch: str) -> None:
    """Add those of a step's memory, with one engine."""
    pair, other = (goal.engine, "torch eager"), "torch eager"
    what = f"peak memory of a step, batch {batch}"
    if goal.engine == ENGINES[1]:  # the other loads its compiled code in its first step
        own, its = (step_memory(contest, batch, name) for name in pair)
        goal.within(f"{what}, over network and batch", other, 1, 0.5, own / its)
    own, its = (contest["memory"][batch][name]["peak"] for name in pair)
    goal.within(f"{what}, the whole process", other, 1, 0.5, own / its)


def draw(contests: list[dict[str, Any]], path: Path) -> None:
    """Draw bars for import time, installed size and the memory of steps."""
    from benchmarks import pictures

    (contest,) = contests
    bars = {
        "import, ms": {k: float(np.median(v)) * 1e3 for k, v in contest["seconds"].items()},
        "installed, MB": {name: size / MB for name, size in contest["bytes"].items()},
    }
    for batch, contenders in contest["memory"].items():
        bars[f"process at its peak, MB,\nbatch {batch}"] = {
            name: moments["peak"] / MB for name, moments in contenders.items()
        }
        bars[f"of it the step's own, MB,\nbatch {batch}"] = {
            name: step_memory(contest, batch, name) / MB for name in contenders
        }
    pictures.bars(bars, path)
