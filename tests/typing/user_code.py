"""What a user writes, as a type checker has to understand it: see test_user_code.py."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import assert_type

import npbn
from npbn import functional


class Scale(npbn.Module):
    """A layer of one's own."""

    def __init__(self, num_features: int) -> None:
        self.weight = npbn.Parameter(np.ones(num_features))

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, Any]:
        x = np.asarray(x)
        return x * self.weight.data, x

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        self.weight.accumulate((grad_output * cache).sum(axis=0))
        return grad_output * self.weight.data if input_grad else None


def networks() -> None:
    rng = np.random.default_rng(0)
    net = npbn.Sequential(
        fc1=npbn.Linear(4, 3, bias=False, rng=rng), bn1=npbn.BatchNorm1d(3), scale=Scale(3)
    )
    net.fc1.weight.data[...] = 0
    net[0].weight.grad = None
    assert_type(net[:1], npbn.Sequential)
    assert_type(net.append(npbn.ReLU()).extend([npbn.Identity()]), npbn.Sequential)
    net[0] = npbn.Linear(4, 3)
    assert_type(net.train().eval().double(), npbn.Sequential)
    assert_type(net(np.ones((2, 4))), np.ndarray)
    assert_type(net.predict([[1.0, 2.0, 3.0, 4.0]]), np.ndarray)
    assert_type(net.backward(np.ones((2, 3))), np.ndarray | None)
    assert_type(net.get_submodule("fc1"), npbn.Module)
    assert_type(net.get_parameter("fc1.weight").numel(), int)
    assert_type(npbn.Linear(4, 3).weight.shape, tuple[int, ...])
    blocks = npbn.ModuleList(npbn.Linear(2, 2) for _ in range(3))
    assert_type(blocks[1:], npbn.ModuleList)
    for name, parameter in npbn.MLP().named_parameters():
        print(name, parameter.dtype, npbn.MLP().fc1.weight.shape)
    norm = npbn.BatchNorm2d(3, momentum=None)
    if norm.weight is not None and norm.running_var is not None:
        norm.weight.data[...] = norm.running_var


def losses() -> None:
    logits, target = np.zeros((2, 3)), np.array([0, 1])
    criterion = npbn.CrossEntropyLoss()
    loss: float = criterion(logits, target)
    assert_type(criterion(logits, target), float)
    assert_type(npbn.CrossEntropyLoss(reduction="sum")(logits, target), float)
    assert_type(npbn.CrossEntropyLoss(reduction="none")(logits, target), np.ndarray)
    assert_type(npbn.MSELoss()(logits, logits), float)
    assert_type(npbn.MSELoss("none")(logits, logits), np.ndarray)
    assert_type(criterion.backward(), np.ndarray)
    print(f"{loss:.3f}")


def training(criterion: npbn.CrossEntropyLoss) -> None:
    x = np.ones((8, 4), np.float32)
    net = npbn.MLP(4, 3, 2)
    loader = npbn.DataLoader(npbn.ArrayDataset(x, np.zeros(8, int)), batch_size=4)
    optimizer = npbn.SGD(net.parameters(), lr=0.1)
    assert_type(npbn.train_epoch(net, loader, criterion, optimizer), float)
    pairs = npbn.DataLoader(npbn.ArrayDataset(x, np.ones((8, 2), np.float32)), batch_size=4)
    assert_type(npbn.train_epoch(net, pairs, npbn.MSELoss(), optimizer), float)
    loss, logits = npbn.train_step(net, x, np.zeros(8, int), criterion, optimizer)
    print(loss + 1.0, logits.shape)
    assert_type(npbn.evaluate(net, loader).accuracy, float)
    npbn.SGD(net.named_parameters())
    npbn.SGD([{"params": net.fc1.parameters(), "lr": 0.1}])
    npbn.update_batch_norm(net, loader)


def files(path: Path) -> None:
    net = npbn.MLP()
    npbn.save(net.state_dict(), path, metadata={"epoch": 1})
    checkpoint = npbn.load(path)
    print(checkpoint.metadata["epoch"])
    missing, unexpected = net.load_state_dict(checkpoint)
    assert_type(missing + unexpected, list[str])
    net.load_state_dict(npbn.load(path), strict=False)
    npbn.from_config(npbn.to_config(net)).load_state_dict(net.state_dict())


def functions() -> None:
    x = np.ones((2, 3))
    assert_type(functional.batch_norm(x, None, None, training=True), np.ndarray)
    y, cache = functional.batch_norm_forward(x, None, None, training=True)
    grad_input, grad_weight, grad_bias = functional.batch_norm_backward(y, cache)
    print(grad_input, grad_weight.shape, grad_bias.shape)
    with npbn.using_engine("numpy"):
        assert_type(npbn.get_engine(), str)
    print(npbn.errors.ShapeError, npbn.distributed.SyncBatchNorm(3).comm.size)
