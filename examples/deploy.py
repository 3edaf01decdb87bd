"""From a training run in torch to a place without it.

Trains the MNIST network in torch for an epoch and saves its state_dict; then a fresh interpreter,
in which importing torch is an error, loads that file into npbn, folds BatchNorm and predicts. Shown
are how far the answers are apart, and time and memory beside the same program with torch.

    python examples/deploy.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from options import prepare_folder
from program import run_program

INSTALL = "pip install -e '.[examples]'"
HERE = Path(__file__).parent
# What a fresh interpreter does: run a program, then print its peak memory where Linux tells it.
LAUNCH = """
import os, runpy, sys
if sys.argv[1] == "without torch":
    sys.modules["torch"] = None  # from here on importing torch is an error
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
if os.path.exists("/proc/self/status"):
    print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
RUNS = 5  # of each program, in turn: the fastest counts, the others met a busy machine
LIMIT = 1e-4  # of the logits, which are near 10: float32 keeps 7 digits, folding rounds anew


def main(arguments: list[str] | None = None) -> int:
    """Train, deploy, compare; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Train in PyTorch, then predict where PyTorch is not.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    out = Path("runs/deploy")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="for what is deployed")
    folder = parser.parse_args(arguments).out
    again = "the same command starts anew"
    return run_program("deploy", lambda: deploy(folder), INSTALL, again)


def deploy(folder: Path) -> int:
    """Train, run both programs in turn, and compare what they say and take."""
    import numpy as np

    prepare_folder(folder)
    print("training in PyTorch for an epoch ...", flush=True)
    train(folder)
    programs = {
        "npbn, torch forbidden": ("without torch", "npbn_app.py", "model.pt", "config.json"),
        "torch": ("with torch", "torch_app.py", "model.pt"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    memory, logits = {}, {}
    for _ in range(RUNS):
        for name, (how, program, *files) in programs.items():
            with tempfile.TemporaryDirectory() as scratch:
                answer = Path(scratch) / "logits.npy"
                paths = [folder / file for file in [*files, "images.npy"]]
                start = perf_counter()
                memory[name] = run(how, HERE / "deploy" / program, *paths, answer)
                seconds[name].append(perf_counter() - start)
                logits[name] = np.load(answer)
    mine, theirs = logits.values()
    classes = np.mean(mine.argmax(axis=1) == theirs.argmax(axis=1))
    difference = float(np.abs(mine - theirs).max())
    print(f"{len(mine)} test images: the same class for {classes:.1%}")
    print(f"largest difference of the logits: {difference:.1e}, of {np.abs(theirs).max():.1f}\n")
    print(f"{'from start to answer':24}{'seconds':>9}{'peak memory':>14}")
    for name in programs:
        size = "-" if memory[name] is None else f"{memory[name]:.0f} MB"
        print(f"{name:24}{min(seconds[name]):9.2f}{size:>14}")
    return 0 if difference <= LIMIT and classes == 1 else 1


def train(folder: Path) -> None:
    """Train for an epoch in torch; write what is to be deployed, and the test images."""
    import numpy as np
    import torch

    import npbn
    from npbn import torch_reference
    from npbn.data import MNIST

    torch.manual_seed(0)
    data, tests = (MNIST(HERE / "data" / "mnist-5k", train) for train in (True, False))
    model = torch_reference.MLP()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = npbn.DataLoader(
        npbn.ArrayDataset(data.images, data.labels),
        batch_size=64,
        shuffle=True,
        rng=np.random.default_rng(0),
    )
    loss = torch_reference.train_epoch(model, loader, torch.nn.CrossEntropyLoss(), optimizer)
    torch.save(model.state_dict(), folder / "model.pt")
    config = npbn.to_config(npbn.MLP())
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    np.save(folder / "images.npy", tests.images)
    size = (folder / "model.pt").stat().st_size / 2**20
    print(
        f"trained in torch for an epoch, loss {loss:.3f}; {folder / 'model.pt'} has {size:.1f} MB"
    )


def run(*arguments: str | Path) -> float | None:
    """Run a program in a fresh interpreter; return its peak memory in MB, if the system tells."""
    command = [sys.executable, "-c", LAUNCH, *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, start_new_session=True
    )  # in a session of its own Ctrl-C does not reach it: this process ends it
    if done.returncode:
        raise ChildProcessError(f"{arguments[1]} failed")
    return int(done.stdout) / 2**10 if done.stdout else None


if __name__ == "__main__":
    sys.exit(main())
