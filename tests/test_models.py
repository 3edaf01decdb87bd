"""MLP and CNN, against the same in torch: their state, one pass, and some steps of training."""

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import array, assert_within, rngs, tensor
from hypothesis import assume, given
from layer_contract import assert_refused
from torch import nn

import npbn
from npbn import models, torch_reference
from npbn.errors import DtypeError, ShapeError
from npbn.torch_reference import copy_to_torch

CLASSES = 5
INPUTS = {"MLP": (12,), "CNN": (2, 4, 9)}  # of one sample
SIZES = {"MLP": (12, 8, CLASSES), "CNN": (2, (4, 9), 8, CLASSES)}
LAYERS = {
    "MLP": ["fc1", "batch_norm1", "relu", "fc2", "batch_norm2", "fc3"],
    "CNN": [
        *("conv1", "batch_norm1", "relu1", "pool1"),
        *("conv2", "batch_norm2", "relu2", "pool2"),
        *("flatten", "fc1", "relu3", "fc2"),
    ],
}
TORCH_DTYPES = {np.float32: torch.float32, np.float64: torch.float64}
networks = pytest.mark.parametrize("network", SIZES)
variants = pytest.mark.parametrize("use_batch_norm", [True, False], ids=["batch_norm", "plain"])


def pair(network, use_batch_norm, dtype, rng):
    """Return the network in both libraries, with the same drawn weights and statistics."""
    arguments = (*SIZES[network], use_batch_norm)
    net = getattr(models, network)(*arguments, dtype=dtype, rng=rng)
    for name, parameter in net.named_parameters():
        if "norm" in name:
            parameter.data[...] = rng.uniform(-1.5, 1.5, parameter.shape)
    for name, buffer in net.named_buffers():
        buffer[...] = 2 if name.endswith("tracked") else rng.uniform(0.5, 2, buffer.shape)
    model = getattr(torch_reference, network)(*arguments, dtype=TORCH_DTYPES[dtype])
    copy_to_torch(net, model)
    return net, model


@networks
@variants
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("small", [True, False], ids=["small", "default"])
def test_the_state_has_torchs_keys_shapes_and_dtypes(network, use_batch_norm, dtype, small):
    sizes, options = SIZES[network] if small else (), {"use_batch_norm": use_batch_norm}
    state = getattr(models, network)(*sizes, **options, dtype=dtype).state_dict()
    build_its = getattr(torch_reference, network)
    its_state = build_its(*sizes, **options, dtype=TORCH_DTYPES[dtype]).state_dict()
    described = {key: (value.shape, value.dtype) for key, value in state.items()}
    assert described == {k: (tuple(v.shape), v.numpy().dtype) for k, v in its_state.items()}


@networks
def test_the_layers_are_the_published_ones_in_their_order(network):
    build = getattr(models, network)
    net, plain = build(*SIZES[network]), build(*SIZES[network], use_batch_norm=False)
    assert [name for name, _ in net.named_children()] == LAYERS[network]
    without = [name for name in LAYERS[network] if "norm" not in name]
    assert [name for name, _ in plain.named_children()] == without
    before_a_norm = {"fc1", "fc2"} if network == "MLP" else {"conv1", "conv2"}
    for name, layer in net.named_children():
        if name.startswith(("fc", "conv")):
            assert (layer.bias is None) == (name in before_a_norm)
            assert getattr(plain, name).bias is not None


def test_the_cnn_takes_mnists_images_by_default_and_those_of_any_other_size():
    net = models.CNN()
    assert net.image_size == (28, 28)
    assert net.fc1.weight.shape == (256, 32 * 7 * 7)
    assert net.predict(np.zeros((2, 1, 28, 28), np.float32)).shape == (2, 10)
    assert models.CNN(image_size=4).image_size == (4, 4)
    net = models.CNN(3, (11, 4), 8, 2)  # 11 to 5 to 2
    assert net.fc1.weight.shape == (8, 32 * 2 * 1)
    assert net.predict(np.zeros((2, 3, 11, 4), np.float32)).shape == (2, 2)


@pytest.mark.parametrize("image_size", [3, 0, -4, (4, 3), (3, 4), (4, 4, 4), 4.5, "28"])
def test_the_cnn_refuses_a_size_that_it_cannot_halve_twice(image_size):
    with pytest.raises(ValueError, match=r"CNN: expected image_size .* of at least 4"):
        models.CNN(1, image_size)


BAD_IMAGES = [(72,), (4, 9), (1, 4, 9), (2, 4, 8), (2, 8, 9), (2, 9, 4), (2, 3, 9), (2, 4, 9, 1)]


@variants
@pytest.mark.parametrize("bad", BAD_IMAGES, ids=str)
def test_the_cnn_refuses_other_images_before_anything_is_tracked(use_batch_norm, bad):
    """(2, 4, 8) among them: two poolings leave as many pixels of it as of (2, 4, 9)."""
    rng = np.random.default_rng(0)
    net, _ = pair("CNN", use_batch_norm, np.float64, rng)
    good = rng.normal(size=(3, *INPUTS["CNN"]))
    fragments = ["CNN", "(N, 2, 4, 9)", str((3, *bad))]
    assert_refused(net, good, rng.normal(size=(3, *bad)), ShapeError, fragments)


def test_the_cnn_refuses_images_of_another_dtype_before_anything_is_tracked():
    net, _ = pair("CNN", True, np.float64, np.random.default_rng(0))
    good = np.random.default_rng(1).normal(size=(3, *INPUTS["CNN"]))
    assert_refused(net, good, good.astype(np.float32), DtypeError, ["float32", "float64"])


def results(net):
    """Return gradients, parameters and running statistics of either library's network."""
    return {
        **{f"{name}.grad": np.asarray(p.grad) for name, p in net.named_parameters()},
        **{key: np.asarray(value) for key, value in net.state_dict().items()},
    }


def margins_at_the_kinks(model):
    """Return a list that will hold how near to a kink every ReLU and pool came in each pass.

    A ReLU has its kink at 0, a pool where the two largest pixels of a window are the same. (A
    window of zeros has none: the ReLU in front of it lets nothing of its gradient through.)
    """
    margins = []

    def of_relu(_, args):
        margins.append(args[0].detach().abs().min().item())

    def of_pool(_, args):
        windows = args[0].detach().unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
        first, second = windows.topk(2).values.unbind(-1)
        margins.append((first - second)[first > 0].min().item())

    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.MaxPool2d):
            hook = of_relu if isinstance(module, nn.ReLU) else of_pool
            module.register_forward_pre_hook(hook)
    return margins


@networks
@variants
@given(rng=rngs(), training=st.booleans(), batch=st.integers(4, 8))
def test_output_and_all_gradients_are_torchs(network, use_batch_norm, rng, training, batch):
    """float64: 2^-40, 4,000 roundings, of the largest number; twice what each sees.

    That is some 60 in the MLP. In the CNN it is 1,900 for the gradient of the first weight: on
    the way there it goes through sums of 18, 144, 64 and 8 products and of the 288 and 64 pixels
    of a channel, on the way back through 5, 8, 288 and 288 products and twice those pixels.
    """
    net, model = pair(network, use_batch_norm, np.float64, rng)
    margins = margins_at_the_kinks(model)
    x, grad_output = rng.normal(size=(batch, *INPUTS[network])), rng.normal(size=(batch, CLASSES))
    its_x = tensor(x, requires_grad=True)
    its_y = model.train(training)(its_x)
    assume(min(margins) > 1e-9)  # else the two may take different sides of a kink
    its_y.backward(tensor(grad_output))
    found = {"output": net.train(training)(x), "input": net.backward(grad_output), **results(net)}
    expected = {"output": array(its_y), "input": array(its_x.grad), **results(model)}
    bound = 2**-40 * max(abs(value).max() for value in expected.values())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_within(found[name], value, bound, name)


# -- steps of training ----------------------------------------------------------------------

STEPS = {"MLP": 10, "CNN": 5}
BATCH = {"MLP": 16, "CNN": 4}


def lockstep(network, net, rng, options):
    """Train in either library for some steps; return what each step showed."""
    ours = isinstance(net, npbn.Module)
    dtype = np.asarray(next(net.parameters()).data).dtype
    criterion = npbn.CrossEntropyLoss() if ours else nn.CrossEntropyLoss()
    optimizer = (npbn.SGD if ours else torch.optim.SGD)(net.parameters(), **options)
    train_step = npbn.train_step if ours else torch_reference.train_step
    history = []
    for _ in range(STEPS[network]):
        x = rng.normal(size=(BATCH[network], *INPUTS[network])).astype(dtype)
        target = rng.integers(0, CLASSES, len(x))
        loss, logits = train_step(net, x, target, criterion, optimizer)
        step = {"loss": np.asarray(loss), "logits": np.asarray(logits), **results(net)}
        history.append(copy.deepcopy(step))
    return history


options_of_sgd = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-3, 0.1),
        "momentum": st.sampled_from([0, 0.9]),
        "weight_decay": st.sampled_from([0, 1e-2]),
    }
)


@networks
@variants
@given(rng=rngs(), options=options_of_sgd)
def test_steps_in_float64_are_torchs(network, use_batch_norm, rng, options):
    """Within 1e-12 of the largest number in the MLP: a step adds some 100 roundings, steps of
    this size multiply what is there by little, and ten of them stay within 4,500 roundings.
    Within 4e-12 in the CNN: five steps of 3,800 roundings, as above, are 19,000."""
    net, model = pair(network, use_batch_norm, np.float64, rng)
    margins = margins_at_the_kinks(model)
    expected = lockstep(network, model, copy.deepcopy(rng), options)
    assume(min(margins) > 1e-9)
    found = lockstep(network, net, rng, options)
    for step, (mine, its) in enumerate(zip(found, expected, strict=True)):
        assert mine.keys() == its.keys()
        largest = max(abs(value).max() for value in its.values())
        bound = {"MLP": 1e-12, "CNN": 4e-12}[network] * largest
        for name, value in its.items():
            assert_within(mine[name], value, bound, f"{name} after step {step}")


@pytest.mark.slow
@networks
@variants
@given(rng=rngs(), options=options_of_sgd)
def test_steps_in_float32_drift_no_further_than_torchs_own(network, use_batch_norm, rng, options):
    """float64 is the truth; torch's own float32 shows what rounding does to this very run.

    npbn may lose four times as much (it loses less as a rule, its statistics are float64), plus
    64 roundings of the largest number, where torch was lucky.
    """
    net, single = pair(network, use_batch_norm, np.float32, rng)
    double = copy.deepcopy(single).double()
    margins = margins_at_the_kinks(double)
    truth = lockstep(network, double, copy.deepcopy(rng), options)
    assume(min(margins) > 1e-5)
    its = lockstep(network, single, copy.deepcopy(rng), options)
    mine = lockstep(network, net, rng, options)
    for step in range(STEPS[network]):
        largest = max(abs(value).max() for value in truth[step].values())
        drift = max(abs(its[step][name] - value).max() for name, value in truth[step].items())
        bound = 4 * drift + 64 * np.finfo(np.float32).eps * largest
        for name, value in truth[step].items():
            assert_within(mine[step][name], value, bound, f"{name} after step {step}")
