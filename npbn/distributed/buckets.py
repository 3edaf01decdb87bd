"""Gradients of many parameters in a few flat arrays, added over the ranks while others follow."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from npbn.distributed.communicator import Communicator, Exchange, raise_not_finite
from npbn.layers.module import Module
from npbn.layers.parameter import Parameter

BUCKET_BYTES = 256 * 1024


class Buckets:
    """One backward pass's sum over the ranks; a context manager around the pass.

    Parameters go into buckets in reverse order, as backward reaches them. A bucket of which every
    gradient is there is sent at once, the buckets in their order, and the pass goes on.

    Parameters
    ----------
    net : Module
    comm : Communicator
    flats : list of ndarray
        The buckets' arrays, empty at first, to be handed in again at the next pass: two ranks add
        1 MB in 0.2 ms, and in 1.0 ms with the page faults of fresh memory.
    """

    def __init__(self, net: Module, comm: Communicator, flats: list[np.ndarray]):
        self._comm, self._flats = comm, flats
        owners = (m for _, m in net.named_modules(remove_duplicate=False))
        # A parameter of a layer that occurs twice gets two gradients.
        self._missing = Counter(p for m in owners for _, p in m._own(Parameter) if p.requires_grad)
        self._waiting = filled(reversed(self._missing))
        self._reached: set[Parameter] = set()
        self._finite = True
        self._sums: list[tuple[list[Parameter], Exchange]] = []
        self._before: dict[Parameter, np.ndarray | None] = {}

    def __enter__(self) -> "Buckets":
        # What earlier passes have left is summed already: it waits aside.
        for parameter in self._missing:
            self._before[parameter], parameter.grad = parameter.grad, None
        self._handles = [
            parameter.register_post_accumulate_grad_hook(self._arrived)
            for parameter in self._missing
        ]
        return self

    def _arrived(self, parameter: Parameter) -> None:
        self._missing[parameter] -= 1
        self._reached.add(parameter)
        for _, exchange in self._sums:
            exchange.poll()
        while self._waiting and all(self._missing[p] <= 0 for p in self._waiting[0]):
            self._send(self._waiting.pop(0))

    def _send(self, bucket: list[Parameter]) -> None:
        number = len(self._sums)
        flat = flatten(bucket, self._flats[number] if number < len(self._flats) else None)
        self._flats[number:] = [flat, *self._flats[number + 1 :]]
        self._finite = self._finite and flat[-1] == 0
        self._sums.append((bucket, self._comm.start_sum(flat, f"gradients {number}")))
        for parameter in bucket:
            parameter.grad = None

    def __exit__(self, kind: object, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None:
            self._finish()
        else:
            self._restore()
            self._flats.clear()  # sums may be under way in them

    def _finish(self) -> None:
        """Send what is left, wait for all, and hand the sums to the parameters."""
        while self._waiting:
            self._send(self._waiting.pop(0))  # a parameter that was not reached adds nothing
        late = [p for p in self._missing if p.grad is not None]  # a layer that runs twice by itself
        for bucket in filled(late):
            self._send(bucket)
        grads: dict[Parameter, np.ndarray] = {}
        sums = [(bucket, exchange.wait()) for bucket, exchange in self._sums]
        self._restore()
        if not all(finite(flat) for _, flat in sums):  # the same bits on all ranks
            raise_not_finite(self._comm, not self._finite, "gradients")
        for bucket, flat in sums:
            for parameter, grad in unflatten(flat, bucket):
                grad = grad.astype(parameter.dtype, order="K")  # a copy: the flat array is ours
                grads[parameter] = grads[parameter] + grad if parameter in grads else grad
        for parameter, grad in grads.items():
            if parameter in self._reached or grad.any():  # another rank may have reached it
                parameter.accumulate(grad)

    def _restore(self) -> None:
        for parameter, grad in self._before.items():
            parameter.grad = grad


def filled(parameters: Iterable[Parameter]) -> list[list[Parameter]]:
    """Distribute parameters, in order, over buckets of one dtype and about BUCKET_BYTES."""
    buckets: list[list[Parameter]] = []
    size = 0
    for parameter in parameters:
        if not buckets or size >= BUCKET_BYTES or parameter.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.data.nbytes
    return buckets


def flatten(bucket: list[Parameter], flat: np.ndarray | None) -> np.ndarray:
    """Return the gradients one after another, and then 0 if all are finite, else NaN.

    In `flat`, if it fits; float16 as float32, which MPI can add.
    """
    dtype = np.promote_types(bucket[0].dtype, np.float32)
    size = sum(parameter.data.size for parameter in bucket) + 1
    if flat is None or (flat.size, flat.dtype) != (size, dtype):
        flat = np.empty(size, dtype)
    flat[-1] = 0
    for parameter, place in unflatten(flat, bucket):
        place[...] = 0 if parameter.grad is None else parameter.grad
    if not finite(flat):
        flat[-1] = np.nan
    return flat


@np.errstate(all="ignore")
def finite(flat: np.ndarray) -> bool:
    """Tell whether all numbers are; their squares first, in an eighth of the time."""
    return bool(np.isfinite(flat @ flat) or np.isfinite(flat).all())


def unflatten(flat: np.ndarray, bucket: list[Parameter]) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Yield the parameters with their views of a flat array."""
    start = 0
    for parameter in bucket:
        part = flat[start : start + parameter.data.size]
        order = "F" if len(parameter.shape) == 2 else "C"  # as the gradient of a Linear lies
        yield parameter, part.reshape(parameter.shape, order=order)
        start += parameter.data.size
