"""What no NumPy program can do without: the bytes moved, or the matrix products alone."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from benchmarks import network
from benchmarks import normalisation as bn
from benchmarks.task import Task, timed


def batch_norm(problem: bn.Problem) -> Task:
    """Return copies that move what the layer must move at least.

    Forward reads x and writes y: one copy. Backward reads g and x and writes the gradient of
    x: a copy and a half.
    """
    x, g = problem.arrays
    y, grad_input = np.empty_like(x), np.empty_like(g)
    half = x.size // 2
    some_x, some_y = x.reshape(-1)[:half], y.reshape(-1)[:half]

    def forward() -> None:
        np.copyto(y, x)

    def train() -> None:
        np.copyto(y, x)
        np.copyto(grad_input, g)
        np.copyto(some_y, some_x)

    run = train if problem.mode == "forward + backward" else forward
    return Task(run, None)


def train_step(problem: network.Problem) -> Task:
    """Return the eight matrix products of a step, into arrays that are there already.

    A weight and its gradient lie in memory in C or in Fortran order, whichever makes the
    layer's products faster.
    """
    rng = np.random.default_rng(0)
    batch = len(problem.x)
    sizes = (network.INPUTS, problem.width, problem.width, network.CLASSES)
    products, orders = [], []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        x = problem.x if i == 0 else rng.random((batch, inputs), np.float32)
        g = rng.random((batch, outputs), np.float32)
        candidates = {
            order: products_of(x, g, problem.state[f"fc{i + 1}.weight"], order, i > 0)
            for order in "CF"
        }
        best = min(candidates, key=lambda order: fastest(candidates[order]))
        products += candidates[best]
        orders.append(best)

    def run() -> None:
        for product in products:
            product()

    note = f"fastest with weights in {', '.join(orders)} order (C: rows contiguous, F: columns)"
    return Task(run, None, note)


def products_of(
    x: np.ndarray, g: np.ndarray, weight: np.ndarray, order: str, input_grad: bool
) -> list[Callable[[], np.ndarray]]:
    """Return the products of one linear layer as functions without arguments."""
    weight = np.array(weight, order=order)
    grad_weight = np.empty_like(weight)
    products = [partial(np.matmul, x, weight.T, out=np.empty_like(g))]
    if order == "C":
        products.append(partial(np.matmul, g.T, x, out=grad_weight))
    else:
        products.append(partial(np.matmul, x.T, g, out=grad_weight.T))
    if input_grad:
        products.append(partial(np.matmul, g, weight, out=np.empty_like(x)))
    return products


def fastest(products: list[Callable[[], np.ndarray]]) -> float:
    """Return the least seconds that the products took in a few runs."""

    def run() -> None:
        for product in products:
            product()

    task = Task(run, None)
    return min(timed(task, 3) for _ in range(7))
