"""What npbn costs before it computes: import, installed size, memory, files; beside torch."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import report, targets
from benchmarks.contenders import modules
from benchmarks.harness import ROOT, environment
from benchmarks.memory import RESET

PACKAGES = ("numpy", "npbn", "torch")
CONTENDERS = ("npbn", "torch eager")
BATCHES = (64, 4096)
MB = 2**20
EXPLANATION = (
    "Import: in a fresh interpreter, taken in turn; the median, with the minimum in brackets. "
    "Size: the files of the package and of all that it requires, without compiled bytecode. "
    "Memory: physical memory of a process of its own, one thread; a step's own is its peak over "
    "what was there with network and batch in place. Code that is loaded at the first step is in "
    "it, memory that earlier work has left free is not. MB are 2²⁰ bytes."
)
IMPORT = """
from time import perf_counter
start = perf_counter()
import {}
print(perf_counter() - start)
"""
# A large state_dict in torch's format and as safetensors; a trained network and an image.
WRITE_FILES = """
import json
from pathlib import Path
import numpy as np
import torch
import npbn
from npbn import torch_reference
folder = Path({folder!r})
state = {{f"layer{{i}}.weight": torch.full(({numbers} // 10,), float(i)) for i in range(10)}}
torch.save(state, folder / "large.pt")
npbn.save({{k: v.numpy() for k, v in state.items()}}, folder / "large.safetensors")
torch.save(torch_reference.MLP().state_dict(), folder / "model.pt")
(folder / "config.json").write_text(json.dumps(npbn.to_config(npbn.MLP())))
np.save(folder / "image.npy", np.zeros((1, 784), np.float32))
"""
LOAD = """
from time import perf_counter
import {}
start = perf_counter()
loaded = {}
print(perf_counter() - start)
"""
START_TO_ANSWER, LOADING = "one image, from start to answer", "loading a file of 100 MB"


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write footprint.json, .md and .png into `out`; `threads` does not matter."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name)]
    if "torch" not in packages:
        print("torch is not installed: skipped")
    with tempfile.TemporaryDirectory() as scratch:
        files = deployment(Path(scratch), packages, quick)
    contest = {
        "threads": 1,
        "seconds": import_times(packages, 3 if quick else 15),
        "refused": {},
        "bytes": {name: installed_size(name) for name in packages if name != "numpy"},
        "files": files,
        "memory": memory(BATCHES[:1] if quick else BATCHES, "torch" in packages),
    }
    report.progress("import", contest)
    report.write(out, "footprint", [contest], markdown(contest), draw, EXPLANATION)


def python(*arguments: str) -> str:
    """Run Python in a fresh process with one thread; return what it prints."""
    command = [sys.executable, *arguments]
    env = environment(1)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an import would compile anew each time
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def import_times(packages: list[str], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that importing each takes; a first import, not counted, warms caches."""
    seconds: dict[str, list[float]] = {name: [] for name in packages}
    for i in range(rounds + 1):
        for name in packages[:: -1 if i % 2 else 1]:
            time = float(python("-c", IMPORT.format(name)))
            if i > 0:
                seconds[name].append(time)
    return seconds


def deployment(folder: Path, packages: list[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Return seconds of whole programs and of loading large files, as what: contender: seconds."""
    if "torch" not in packages:
        return {}
    rounds = 3 if quick else 15
    python("-c", WRITE_FILES.format(folder=str(folder), numbers=2**20 if quick else 2**20 * 25))
    files = [folder / name for name in ("model.pt", "config.json", "image.npy", "logits.npy")]
    apps = ROOT / "examples" / "deploy"
    answer = {
        "npbn": [str(path) for path in (apps / "npbn_app.py", *files)],
        "torch": [str(path) for path in (apps / "torch_app.py", files[0], *files[2:])],
    }
    found = {START_TO_ANSWER: {name: [] for name in answer}}
    for name, arguments in in_turn(answer, rounds):
        start = perf_counter()
        python(*arguments)
        found[START_TO_ANSWER][name].append(perf_counter() - start)
    loads = {
        "npbn, .pt": LOAD.format("npbn", f"npbn.load({str(folder / 'large.pt')!r})"),
        "npbn, .safetensors": LOAD.format(
            "npbn", f"npbn.load({str(folder / 'large.safetensors')!r})"
        ),
        "torch, .pt": LOAD.format("torch", f"torch.load({str(folder / 'large.pt')!r}, mmap=True)"),
    }
    found[LOADING] = {name: [] for name in loads}
    for name, program in in_turn(loads, rounds):
        found[LOADING][name].append(float(python("-c", program)))
    return found


def in_turn(programs: dict[str, Any], rounds: int) -> Iterator[tuple[str, Any]]:
    """Yield every program once a round, forwards and backwards through the line."""
    for i in range(rounds):
        yield from list(programs.items())[:: -1 if i % 2 else 1]


def installed_size(package: str) -> int:
    """Return the bytes of a package's files and of those that it requires."""
    from packaging.requirements import Requirement

    wanted, seen, total = [package], set(), 0
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
    return sum(f.stat().st_size for f in files if f.suffix != ".pyc" and f.is_file())


def memory(batches: tuple[int, ...], with_torch: bool) -> dict[str, dict[str, dict[str, int]]]:
    """Return the bytes as batch: contender: moment."""
    if not RESET.exists():
        print("memory: this system does not tell a process its peak: skipped")
        return {}
    found = modules(*(CONTENDERS if with_torch else CONTENDERS[:1]))
    return {
        str(batch): {
            name: json.loads(python("-m", "benchmarks.memory", module, "train_step", case(batch)))
            for name, module in found.items()
        }
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
            [name, report.time_cell(view, name), report.ratio_cell(view, "npbn", name)]
            if "npbn" in contenders
            else [name, report.time_cell(view, name), report.ratio_cell(view, "torch, .pt", name)]
            for name in contenders
        ]
        base = "npbn" if "npbn" in contenders else "torch"
        parts.append(report.table(["program", "time", f"in {base}'s"], lines))
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
    goal = targets.Goals(found, "1 thread")
    quartiles = report.ratio(contest, "numpy", "npbn")
    goal.within("import npbn", "import numpy", 1.3, 1.1, float(quartiles[1]))
    if contest["files"]:
        answer = {"seconds": contest["files"][START_TO_ANSWER]}
        goal.faster(START_TO_ANSWER, "torch", 5, 5, float(report.ratio(answer, "npbn", "torch")[1]))
        loading = {"seconds": contest["files"][LOADING]}
        for name in ("npbn, .pt", "npbn, .safetensors"):
            ratio = float(report.ratio(loading, name, "torch, .pt")[1])
            goal.faster(f"{LOADING}, {name}", "torch.load with mmap", 1, 1, ratio)
    for batch, contenders in contest["memory"].items():
        if len(contenders) == 2:
            own, its = (step_memory(contest, batch, name) for name in CONTENDERS)
            what = f"peak memory of a step, batch {batch}"
            goal.within(f"{what}, over network and batch", "torch eager", 1, 0.5, own / its)
            own, its = (contenders[name]["peak"] for name in CONTENDERS)
            goal.within(f"{what}, the whole process", "torch eager", 1, 0.5, own / its)
    return found


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
