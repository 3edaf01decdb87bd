"""The same networks and training step in PyTorch, to compare with; npbn never imports this.

It needs torch (and, for :func:`torchvision_mnist` alone, torchvision):
``pip install 'npbn[examples]'``.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from npbn.errors import DataError
from npbn.layers import Module
from npbn.ranks import of_one_process
from npbn.training import Evaluation, MeanLoss, sum_of_terms, tally

__all__ = [
    "CNN",
    "MLP",
    "copy_to_npbn",
    "copy_to_torch",
    "download_mnist",
    "evaluate",
    "max_abs_diff",
    "torchvision_mnist",
    "train_epoch",
    "train_step",
]

Batches = Iterable[tuple[np.ndarray, np.ndarray]]


class MLP(nn.Module):
    """:class:`npbn.MLP` in PyTorch: same arguments, same attributes, same ``state_dict`` keys.

    Parameters
    ----------
    input_size, hidden_dim, output_size : int
    use_batch_norm : bool
    dtype : torch.dtype
    """

    def __init__(
        self,
        input_size: int = 784,
        hidden_dim: int = 256,
        output_size: int = 10,
        use_batch_norm: bool = True,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        bias = not use_batch_norm
        self.use_batch_norm = use_batch_norm
        self.fc1 = nn.Linear(input_size, hidden_dim, bias=bias, dtype=dtype)
        if use_batch_norm:
            self.batch_norm1 = nn.BatchNorm1d(hidden_dim, dtype=dtype)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden_dim, hidden_dim, bias=bias, dtype=dtype)
        if use_batch_norm:
            self.batch_norm2 = nn.BatchNorm1d(hidden_dim, dtype=dtype)
        self.fc3 = nn.Linear(hidden_dim, output_size, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, output_size) of inputs (N, input_size)."""
        if self.use_batch_norm:
            x = self.relu(self.batch_norm1(self.fc1(x)))
            x = self.batch_norm2(self.fc2(x))
        else:
            x = self.fc2(self.relu(self.fc1(x)))
        logits: torch.Tensor = self.fc3(x)
        return logits


class CNN(nn.Sequential):
    """:class:`npbn.CNN` in PyTorch: same arguments, same layers, same ``state_dict`` keys.

    Parameters
    ----------
    in_channels : int
    image_size : int or (int, int)
    hidden_dim, output_size : int
    use_batch_norm : bool
    dtype : torch.dtype
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        hidden_dim: int = 256,
        output_size: int = 10,
        use_batch_norm: bool = True,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        conv: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": not use_batch_norm}
        layers = {
            "conv1": nn.Conv2d(in_channels, 16, **conv, dtype=dtype),
            "batch_norm1": nn.BatchNorm2d(16, dtype=dtype) if use_batch_norm else None,
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(16, 32, **conv, dtype=dtype),
            "batch_norm2": nn.BatchNorm2d(32, dtype=dtype) if use_batch_norm else None,
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(32 * (height // 4) * (width // 4), hidden_dim, dtype=dtype),
            "relu3": nn.ReLU(),
            "fc2": nn.Linear(hidden_dim, output_size, dtype=dtype),
        }
        present = {name: layer for name, layer in layers.items() if layer is not None}
        super().__init__(OrderedDict(present))


def copy_to_torch(net: Module, model: nn.Module) -> None:
    """Copy parameters and running statistics of an npbn network into a torch model.

    Parameters
    ----------
    net : npbn.Module
    model : torch.nn.Module
        With the same ``state_dict`` keys.
    """
    model.load_state_dict({key: torch.tensor(value) for key, value in net.state_dict().items()})


def copy_to_npbn(model: nn.Module, net: Module) -> None:
    """Copy parameters and running statistics of a torch model into an npbn network.

    Parameters
    ----------
    model : torch.nn.Module
    net : npbn.Module
        With the same ``state_dict`` keys.
    """
    net.load_state_dict(model.state_dict())


def train_step(
    model: nn.Module,
    x: np.ndarray,
    target: np.ndarray,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> tuple[float, np.ndarray]:
    """Take one step of training on one batch; return its loss and logits before the step.

    Parameters
    ----------
    model : torch.nn.Module
    x, target : ndarray
    criterion : torch.nn.Module
    optimizer : torch.optim.Optimizer

    Returns
    -------
    loss : float
    logits : ndarray
    """
    optimizer.zero_grad()
    logits = model(torch.from_numpy(x))
    loss = criterion(logits, torch.from_numpy(target))
    loss.backward()
    optimizer.step()
    return loss.item(), logits.detach().numpy()


def train_epoch(
    model: nn.Module, loader: Batches, criterion: nn.Module, optimizer: torch.optim.Optimizer
) -> float:
    """Train on every batch of the loader; return the mean loss as :func:`npbn.train_epoch` does.

    Parameters
    ----------
    model : torch.nn.Module
    loader : iterable of (x, target)
    criterion : torch.nn.Module
    optimizer : torch.optim.Optimizer

    Returns
    -------
    float
    """
    of_one_process("train_epoch", loader)
    mean = MeanLoss(criterion)
    model.train()
    for x, target in loader:
        loss, logits = train_step(model, x, target, criterion, optimizer)
        mean.add(*_sum_and_weight(criterion, loss, torch.from_numpy(logits), target), len(target))
    return mean.value


def evaluate(
    model: nn.Module,
    loader: Batches,
    criterion: nn.Module | None = None,
    *,
    train_mode: bool = False,
) -> Evaluation:
    """Return loss and accuracy as :func:`npbn.evaluate` does; the model is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
    loader : iterable of (x, target)
    criterion : torch.nn.Module, optional
        By default cross-entropy.
    train_mode : bool
        Normalise by the statistics of each batch.

    Returns
    -------
    Evaluation
    """
    of_one_process("evaluate", loader)
    model = copy.deepcopy(model).train(train_mode)
    criterion = nn.CrossEntropyLoss() if criterion is None else criterion

    def run(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, float]:
        logits = model(torch.from_numpy(x))
        loss = criterion(logits, torch.from_numpy(target)).item()
        return logits.numpy(), *_sum_and_weight(criterion, loss, logits, target)

    with torch.inference_mode():
        return tally(run, loader, criterion)


def _sum_and_weight(
    criterion: nn.Module, loss: float, logits: torch.Tensor, target: np.ndarray
) -> tuple[float, float]:
    """Return the sum of the terms of a loss, and what a mean divides it by."""
    weight = _denominator(criterion, target)
    return sum_of_terms(criterion, loss, weight, logits, torch.from_numpy(target)), weight


def _denominator(criterion: nn.Module, target: np.ndarray) -> float:
    """Return what the mean of a batch was divided by, up to a factor that all batches share."""
    if not isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) or target.dtype.kind == "f":
        return len(target)
    counted = target[target != criterion.ignore_index]
    if criterion.weight is None:
        return float(counted.size)
    return float(criterion.weight.detach().double().numpy()[counted].sum())


def max_abs_diff(net: Module, model: nn.Module) -> dict[str, float]:
    """Return the largest absolute differences between an npbn network and a torch model.

    Parameters
    ----------
    net : npbn.Module
    model : torch.nn.Module
        With the same ``state_dict`` keys.

    Returns
    -------
    dict
        ``gradients``, ``parameters`` and ``running_stats`` (0 where there are none); NaN
        where either holds one.
    """
    reference = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    pairs: dict[str, list[tuple[Any, Any]]] = {
        "gradients": [(p.grad, reference[name].grad) for name, p in net.named_parameters()],
        "parameters": [(p.data, reference[name].detach()) for name, p in net.named_parameters()],
        "running_stats": [(array, buffers[name]) for name, array in net.named_buffers()],
    }
    return {
        what: float(np.max([np.abs(mine - its.numpy()).max() for mine, its in both], initial=0.0))
        for what, both in pairs.items()
    }


def torchvision_mnist(root: str | Path, train: bool = True, download: bool = False) -> Any:
    """Return ``torchvision.datasets.MNIST`` with ``ToTensor``, to compare the readers.

    Parameters
    ----------
    root : path
        Folder that holds, or will hold, ``MNIST/raw``.
    train, download : bool
        As in torchvision.

    Returns
    -------
    torchvision.datasets.MNIST
    """
    torchvision = _import_torchvision()
    return torchvision.datasets.MNIST(
        root, train=train, download=download, transform=torchvision.transforms.ToTensor()
    )


def download_mnist(root: str | Path) -> None:
    """Download MNIST through torchvision into ``root/MNIST/raw``, unless it is there.

    Parameters
    ----------
    root : path

    Raises
    ------
    DataError
        If it cannot be fetched or written.
    """
    try:
        torchvision_mnist(root, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # torchvision's has a line for every mirror
        raise DataError(f"MNIST could not be downloaded into {root}: {reason}") from error


def _import_torchvision() -> Any:
    """Import torchvision, also beside a torch build that its compiled operators do not fit.

    torchvision's wheel is compiled against one build of torch. Beside another (a CPU build,
    often) its library does not load, and the import then fails with "operator
    torchvision::nms does not exist": its Python part describes two of the operators to
    torch, which needs them declared. Their schemas are enough for data sets and transforms.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
        import torchvision
    return torchvision
