"""Networks for the tests of population statistics."""

import numpy as np
import pytest

import npbn
from npbn import BatchNorm1d, Dropout, Linear, ReLU, Sequential, Sigmoid
from npbn.layers.batch_norm import BatchNorm

BOTH = pytest.mark.parametrize("average_batches", [False, True], ids=["exact", "averaged"])


def fill(net, rng):
    """Draw parameters and statistics; return the network."""
    for parameter in net.parameters():
        parameter.data[...] = rng.uniform(-1, 1, parameter.shape)
    for name, buffer in net.named_buffers():
        buffer[...] = 7 if name.endswith("tracked") else rng.uniform(0.5, 2, buffer.shape)
    return net


def norms(net):
    return [module for module in net.modules() if isinstance(module, BatchNorm)]


NETWORKS = {
    "MLP": (lambda dtype: npbn.MLP(4, 5, 3, dtype=dtype), (4,)),
    "CNN": (lambda dtype: npbn.CNN(2, 4, 3, 3, dtype=dtype), (2, 4, 4)),
    "nested": (
        lambda dtype: Sequential(
            BatchNorm1d(4, dtype=dtype),
            Sequential(Dropout(0.5), Linear(4, 3, dtype=dtype)),
            Sequential(Sequential(BatchNorm1d(3, affine=False, dtype=dtype), Sigmoid())),
            Linear(3, 2, dtype=dtype),
            BatchNorm1d(2, momentum=None, dtype=dtype),
        ),
        (4,),
    ),
}
VARIANTS = {
    "variants": (
        lambda dtype: Sequential(
            npbn.GhostBatchNorm1d(4, 2, dtype=dtype),
            Linear(4, 3, dtype=dtype),
            npbn.BatchRenorm1d(3, 3.0, 5.0, dtype=dtype),
        ),
        (4,),
    ),
}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


# -- nothing else changes -------------------------------------------------------------------


def drawn(rng):
    """Return a network in mixed modes, with momenta, a pending forward and a frozen part."""
    net = Sequential(
        norm=BatchNorm1d(3, momentum=0.3),
        drop=Dropout(0.5, rng=np.random.default_rng(1)),
        part=Sequential(fc=Linear(3, 3), norm=BatchNorm1d(3, momentum=None)),
        fixed=BatchNorm1d(3),
        free=BatchNorm1d(3, track_running_stats=False),
        relu=ReLU(),
        last=BatchNorm1d(3),
    )
    fill(net.double(), rng)
    net.fixed.freeze()
    net.part.norm.eval()
    return net


def everything(net):
    """Return all that a network is: its arrays, settings, modes, generators and what is pending."""
    shown = {}
    for name, module in net.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, npbn.Parameter):
                value = (value.data.tobytes(), value.requires_grad, value.grad)
            elif isinstance(value, np.ndarray):
                value = value.tobytes()
            elif isinstance(value, np.random.Generator):
                value = str(value.bit_generator.state)
            shown[name, key] = value
    return shown
