"""How long a trained network takes to be there: a whole program, and loading large files."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.contenders import ENGINES
from benchmarks.harness import ROOT

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
if {safetensors}:
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
Seconds = dict[str, list[float]]


def measure(
    python: Callable[..., str], folder: Path, names: list[str], quick: bool
) -> dict[str, Seconds]:
    """Return seconds by what was done and by contender; `python` runs a fresh interpreter."""
    if "torch" not in names:
        return {}
    safetensors = importlib.util.find_spec("safetensors") is not None
    if not safetensors:
        print("safetensors is not installed, which writes such a file: loading one is skipped")
    numbers = (1 if quick else 25) * 2**20
    python("-c", WRITE_FILES.format(folder=str(folder), numbers=numbers, safetensors=safetensors))
    rounds = 3 if quick else 15
    return {
        START_TO_ANSWER: start_to_answer(python, folder, names, rounds),
        LOADING: loading(python, folder, safetensors, rounds),
    }


def start_to_answer(
    python: Callable[..., str], folder: Path, names: list[str], rounds: int
) -> Seconds:
    """Return the seconds of a whole program that classifies one image."""
    files = [folder / name for name in ("model.pt", "config.json", "image.npy", "logits.npy")]
    apps = ROOT / "examples" / "deploy"
    programs = {name: [apps / "npbn_app.py", *files] for name in ENGINES if name in names}
    programs["torch"] = [apps / "torch_app.py", files[0], *files[2:]]
    seconds: Seconds = {name: [] for name in programs}
    for i, (name, arguments) in enumerate(in_turn(programs, rounds + 1)):
        engine = name.removeprefix("npbn ") if name in ENGINES else "numpy"
        start = perf_counter()
        python(*map(str, arguments), NPBN_ENGINE=engine)
        if i >= len(programs):  # the first round is not counted: it compiles, and warms caches
            seconds[name].append(perf_counter() - start)
    return seconds


def loading(python: Callable[..., str], folder: Path, safetensors: bool, rounds: int) -> Seconds:
    """Return the seconds of loading a large file."""
    pt, other = (str(folder / f"large.{suffix}") for suffix in ("pt", "safetensors"))
    programs = {"npbn, .pt": LOAD.format("npbn", f"npbn.load({pt!r})")}
    if safetensors:
        programs["npbn, .safetensors"] = LOAD.format("npbn", f"npbn.load({other!r})")
    programs["torch, .pt"] = LOAD.format("torch", f"torch.load({pt!r}, mmap=True)")
    seconds: Seconds = {name: [] for name in programs}
    for name, program in in_turn(programs, rounds):
        seconds[name].append(float(python("-c", program)))
    return seconds


def in_turn(programs: dict[str, Any], rounds: int) -> Iterator[tuple[str, Any]]:
    """Yield every program once a round, forwards and backwards through the line."""
    for i in range(rounds):
        yield from list(programs.items())[:: -1 if i % 2 else 1]
