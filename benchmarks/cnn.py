"""A training step of the convolutional network as a problem to solve; benchmarks.conv runs it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import npbn
from benchmarks.network import LEARNING_RATE, TOLERANCE, State, compare
from benchmarks.task import Task, WrongError

WORK = "cnn_step"


class Problem(NamedTuple):
    """The network's initial ``state_dict``, and a batch of images, (N, 1, 28, 28), with classes."""

    state: State
    x: np.ndarray
    target: np.ndarray


def problem(case: Mapping[str, Any]) -> Problem:
    """Draw what a case describes: ``batch``; the same every time."""
    rng = np.random.default_rng(case["batch"])
    state = npbn.CNN(rng=rng).state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    x = rng.random((case["batch"], 1, 28, 28), np.float32)
    return Problem(state, x, rng.integers(0, 10, case["batch"]))


def prove(problem: Problem, task: Task) -> None:
    """Run a step and compare loss, and the change of every array, with float64, in norm.

    The float64 step is npbn's, which the tests compare with torch's to 12 digits.

    Raises
    ------
    WrongError
    """
    exact = npbn.CNN(dtype=np.float64)
    exact.load_state_dict(problem.state)
    optimizer = npbn.SGD(exact.parameters(), lr=LEARNING_RATE)
    x = problem.x.astype(np.float64)
    loss, _ = npbn.train_step(exact, x, problem.target, npbn.CrossEntropyLoss(), optimizer)
    after = exact.state_dict()
    results = task.read(task.run())
    compare("loss", results["loss"], np.float64(loss), TOLERANCE * abs(loss))
    eps = float(np.finfo(np.float32).eps)
    for name, start in problem.state.items():
        if name not in results:
            raise WrongError(f"{name} is missing")
        if results[name].dtype != np.float32:
            raise WrongError(f"{name} is {results[name].dtype}, should be float32")
        change = float(np.linalg.norm(after[name] - start))
        allowed = TOLERANCE * change + eps * float(np.linalg.norm(after[name]))
        compare(name, results[name], after[name], allowed)
