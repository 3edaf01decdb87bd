"""Networks, and comparisons, that the tests of this folder share."""

import numpy as np
from helpers import assert_within

import npbn
from npbn.distributed import DataParallel, convert_sync_batch_norm


def parallel(net, comm):
    return DataParallel(convert_sync_batch_norm(net, comm), comm)


def mlp(seed=0, dtype="float64"):
    return npbn.MLP(4, 5, 3, dtype=dtype, rng=np.random.default_rng(seed))


def cnn(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return npbn.Sequential(
        npbn.Conv2d(1, 2, 2, bias=False, dtype=dtype, rng=rng),
        npbn.BatchNorm2d(2, dtype=dtype),
        npbn.ReLU(),
        npbn.MaxPool2d(2),
        npbn.Flatten(),
        npbn.Linear(8, 3, dtype=dtype, rng=rng),
    )


NETWORKS = {"MLP": (mlp, (4,)), "CNN": (cnn, (1, 5, 5))}


def state_bytes(net):
    return b"".join(array.tobytes() for array in net.state_dict().values())


def grads(net):
    return [parameter.grad for parameter in net.parameters()]


def close(actual, expected, what="result", dtype="float64"):
    """To 1e-12, in float32 as many eps of it: about 4,500 roundings of the largest number."""
    expected = np.asarray(expected)
    scale = max(1, np.abs(expected).max(initial=0))
    bound = 1e-12 * float(np.finfo(dtype).eps) / np.finfo("float64").eps * scale
    assert_within(actual, expected, bound, what)


class Twice(npbn.Module):
    """Runs its one child twice, which nobody can tell from outside."""

    def __init__(self, inner):
        self.inner = inner

    def _apply(self, x, predict):
        y, first = self.inner._apply(x, predict)
        y, second = self.inner._apply(y, predict)
        return y, (first, second)

    def _backward(self, grad_output, cache, input_grad):
        grad = self.inner._backward(grad_output, cache[1], True)
        return self.inner._backward(grad, cache[0], input_grad)


def twice_network():
    rng = np.random.default_rng(0)
    return npbn.Sequential(
        npbn.Linear(4, 3, dtype="f8", rng=rng),
        Twice(
            npbn.Sequential(
                npbn.Linear(3, 3, dtype="f8", rng=rng),
                npbn.BatchNorm1d(3, dtype="f8"),
                npbn.Sigmoid(),
            )
        ),
        npbn.Linear(3, 3, dtype="f8", rng=rng),
    )
