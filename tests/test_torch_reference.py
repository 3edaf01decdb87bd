"""torch_reference: copies of weights, differences, and torchvision's reader beside npbn's."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import array, assert_same_bits, rngs, tensor
from hypothesis import given
from processes import run_python

import npbn
from npbn import models, torch_reference
from npbn.data import MNIST

EMBEDDED = Path(__file__).parents[1] / "examples" / "data" / "mnist-5k"
PACKAGE = Path(npbn.__file__).parents[1]
CLASSES = 4
INPUTS = {"MLP": (6,), "CNN": (1, 4, 9)}  # of one sample
SIZES = {"MLP": (6, 5, CLASSES), "CNN": (1, (4, 9), 5, CLASSES)}
DTYPES = {np.float32: torch.float32, np.float64: torch.float64}
networks = pytest.mark.parametrize("network", SIZES)
variants = pytest.mark.parametrize("use_batch_norm", [True, False], ids=["batch_norm", "plain"])


def trained_pair(network, use_batch_norm, rng, dtype=np.float64):
    """Return two networks of different weights, gradients and running statistics."""
    arguments = (*SIZES[network], use_batch_norm)
    net = getattr(models, network)(*arguments, dtype=dtype, rng=rng)
    model = getattr(torch_reference, network)(*arguments, dtype=DTYPES[dtype])
    for side, step in ((net, npbn.train_step), (model, torch_reference.train_step)):
        ours = side is net
        criterion = npbn.CrossEntropyLoss() if ours else torch.nn.CrossEntropyLoss()
        optimizer = (npbn.SGD if ours else torch.optim.SGD)(side.parameters(), lr=0.1)
        x = rng.normal(size=(8, *INPUTS[network])).astype(dtype)
        target = rng.integers(0, CLASSES, 8)
        step(side, x, target, criterion, optimizer)
    return net, model


def assert_same_state(net, model):
    state, its_state = net.state_dict(), model.state_dict()
    assert state.keys() == its_state.keys()
    for key, value in state.items():
        assert_same_bits(value, its_state[key].numpy(), key)


@networks
@variants
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_copied_in_both_directions(network, use_batch_norm, dtype):
    rng = np.random.default_rng(0)
    net, model = trained_pair(network, use_batch_norm, rng, dtype)
    torch_reference.copy_to_torch(net, model)
    assert_same_state(net, model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net, _ = trained_pair(network, use_batch_norm, rng, dtype)  # nothing is shared
    for key, value in model.state_dict().items():
        assert_same_bits(value.numpy(), before[key].numpy())
    torch_reference.copy_to_npbn(model, net)
    assert_same_state(net, model)
    net.fc1.weight.data += 1
    with torch.no_grad():
        model.fc2.weight += 1
    for key, value in before.items():
        if key != "fc1.weight":
            assert_same_bits(net.state_dict()[key], value.numpy())
        if key != "fc2.weight":
            assert_same_bits(model.state_dict()[key].numpy(), value.numpy())


@networks
@variants
@given(rng=rngs())
def test_max_abs_diff_is_the_largest_difference_of_each_kind(network, use_batch_norm, rng):
    net, model = trained_pair(network, use_batch_norm, rng)
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    expected = {
        "gradients": [(p.grad, parameters[n].grad) for n, p in net.named_parameters()],
        "parameters": [(p.data, parameters[n]) for n, p in net.named_parameters()],
        "running_stats": [(b, buffers[n]) for n, b in net.named_buffers()],
    }
    assert torch_reference.max_abs_diff(net, model) == {
        kind: max((abs(mine - array(its)).max() for mine, its in pairs), default=0)
        for kind, pairs in expected.items()
    }


def test_max_abs_diff_of_copies_is_zero_and_sees_each_single_element():
    net, model = trained_pair("MLP", True, np.random.default_rng(0))
    torch_reference.copy_to_torch(net, model)
    for name, parameter in model.named_parameters():
        parameter.grad = tensor(dict(net.named_parameters())[name].grad)
    nothing = {"gradients": 0, "parameters": 0, "running_stats": 0}
    assert torch_reference.max_abs_diff(net, model) == nothing
    arrays = [("gradients", p.grad) for p in net.parameters()]
    arrays += [("parameters", p.data) for p in net.parameters()]
    arrays += [("running_stats", buffer) for _, buffer in net.named_buffers() if buffer.ndim]
    for kind, values in arrays:
        kept = values.flat[-1]
        for change in (-3, np.nan):  # a NaN may not get lost in a comparison
            values.flat[-1] = kept + change
            found = torch_reference.max_abs_diff(net, model)
            assert found == pytest.approx({**nothing, kind: abs(change)}, rel=1e-12, nan_ok=True)
        values.flat[-1] = kept


# -- torchvision ----------------------------------------------------------------------------


@pytest.mark.slow  # to import torchvision
@pytest.mark.parametrize("train", [True, False])
def test_torchvisions_reader_and_ours_give_the_same_images_and_labels(tmp_path, train):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in EMBEDDED.glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    mine, its = (
        MNIST(tmp_path, train, flatten=False),
        torch_reference.torchvision_mnist(tmp_path, train),
    )
    assert len(mine) == len(its) == (4000 if train else 1000)
    images, labels = zip(*its, strict=True)  # each through ToTensor
    assert_same_bits(mine.images, torch.cat(images).numpy())
    assert_same_bits(mine.labels, np.array(labels))
    assert_same_bits(MNIST(tmp_path, train).images, torch.cat(images).flatten(1).numpy())
    assert_same_bits(MNIST(EMBEDDED, train, flatten=False).images, mine.images)


@pytest.mark.slow
def test_torchvision_finds_nothing_without_a_download(tmp_path):
    with pytest.raises(RuntimeError, match="not found"):
        torch_reference.torchvision_mnist(tmp_path)


@pytest.mark.slow
@pytest.mark.process
def test_the_import_helper_declares_the_operators_that_a_misfit_torchvision_lacks(tmp_path):
    """In a fresh interpreter: what is declared to torch stays declared."""
    (tmp_path / "torchvision.py").write_text(
        "import torch\n"
        "for name in ('nms', 'qnms'):\n"  # as in torchvision/_meta_registrations.py
        "    torch.library.register_fake(f'torchvision::{name}')(lambda *_: None)\n"
        "answer = 42\n"
    )
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(PACKAGE)!r}]\n"
        "from npbn.torch_reference import _import_torchvision\n"
        "print(_import_torchvision().answer, _import_torchvision().answer)\n"
    )
    assert run_python("-c", program) == (0, "42 42\n", "")


def test_the_import_helper_hides_no_other_error(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('the disk is on fire')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        torch_reference._import_torchvision()
