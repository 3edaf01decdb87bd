"""The MLP, against the same network in torch: its state, one pass, and ten steps of training."""

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import array, assert_within, rngs, tensor
from hypothesis import assume, given
from torch import nn

import npbn
from npbn import torch_reference
from npbn.torch_reference import copy_to_torch

SIZES = (12, 8, 5)
TORCH_DTYPES = {np.float32: torch.float32, np.float64: torch.float64}
variants = pytest.mark.parametrize("use_batch_norm", [True, False], ids=["batch_norm", "plain"])


def pair(use_batch_norm, dtype, rng):
    """Return the network in both libraries, with the same drawn weights."""
    net = npbn.MLP(*SIZES, use_batch_norm, dtype=dtype, rng=rng)
    for name, parameter in net.named_parameters():
        if "norm" in name:
            parameter.data[...] = rng.uniform(-1.5, 1.5, parameter.shape)
    model = torch_reference.MLP(*SIZES, use_batch_norm, dtype=TORCH_DTYPES[dtype])
    copy_to_torch(net, model)
    return net, model


@variants
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("sizes", [SIZES, ()], ids=["small", "default"])
def test_the_state_has_torchs_keys_shapes_and_dtypes(use_batch_norm, dtype, sizes):
    options = {"use_batch_norm": use_batch_norm}
    state = npbn.MLP(*sizes, **options, dtype=dtype).state_dict()
    its_state = torch_reference.MLP(*sizes, **options, dtype=TORCH_DTYPES[dtype]).state_dict()
    described = {key: (value.shape, value.dtype) for key, value in state.items()}
    assert described == {k: (tuple(v.shape), v.numpy().dtype) for k, v in its_state.items()}


def test_the_layers_are_the_published_ones_in_their_order():
    assert [name for name, _ in npbn.MLP(*SIZES).named_children()] == [
        "fc1",
        "batch_norm1",
        "relu",
        "fc2",
        "batch_norm2",
        "fc3",
    ]
    plain = npbn.MLP(*SIZES, use_batch_norm=False)
    assert [name for name, _ in plain.named_children()] == ["fc1", "relu", "fc2", "fc3"]
    assert all(layer.bias is not None for layer in (plain.fc1, plain.fc2, plain.fc3))


def results(net):
    """Return gradients, parameters and running statistics of either library's network."""
    return {
        **{f"{name}.grad": np.asarray(p.grad) for name, p in net.named_parameters()},
        **{key: np.asarray(value) for key, value in net.state_dict().items()},
    }


@variants
@given(rng=rngs(), training=st.booleans(), batch=st.integers(4, 9))
def test_output_and_all_gradients_are_torchs(use_batch_norm, rng, training, batch):
    """float64: 2^-40, 4,000 roundings, of the largest number; each sees some 60, twice."""
    net, model = pair(use_batch_norm, np.float64, rng)
    x, grad_output = rng.normal(size=(batch, SIZES[0])), rng.normal(size=(batch, SIZES[-1]))
    its_x = tensor(x, requires_grad=True)
    its_y = model.train(training)(its_x)
    its_y.backward(tensor(grad_output))
    found = {"output": net.train(training)(x), "input": net.backward(grad_output), **results(net)}
    expected = {"output": array(its_y), "input": array(its_x.grad), **results(model)}
    bound = 2**-40 * max(abs(value).max() for value in expected.values())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_within(found[name], value, bound, name)


# -- ten steps of training ------------------------------------------------------------------


def lockstep(net, rng, options):
    """Train in either library for ten steps; return what each step showed."""
    ours = isinstance(net, npbn.Module)
    dtype = np.asarray(next(net.parameters()).data).dtype
    criterion = npbn.CrossEntropyLoss() if ours else nn.CrossEntropyLoss()
    optimizer = (npbn.SGD if ours else torch.optim.SGD)(net.parameters(), **options)
    train_step = npbn.train_step if ours else torch_reference.train_step
    history = []
    for _ in range(10):
        x, target = rng.normal(size=(16, SIZES[0])).astype(dtype), rng.integers(0, SIZES[-1], 16)
        loss, logits = train_step(net, x, target, criterion, optimizer)
        step = {"loss": np.asarray(loss), "logits": np.asarray(logits), **results(net)}
        history.append(copy.deepcopy(step))
    return history


def margin_at_the_kink(model):
    """Return a list that will hold how near to 0 the inputs of ReLU came in each pass."""
    margins = []
    model.relu.register_forward_pre_hook(lambda _, args: margins.append(args[0].abs().min().item()))
    return margins


options_of_sgd = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-3, 0.1),
        "momentum": st.sampled_from([0, 0.9]),
        "weight_decay": st.sampled_from([0, 1e-2]),
    }
)


@variants
@given(rng=rngs(), options=options_of_sgd)
def test_ten_steps_in_float64_are_torchs(use_batch_norm, rng, options):
    """Within 1e-12 of the largest number: a step adds some 100 roundings, steps of this size
    multiply what is there by little, and ten of them stay within 4,500 roundings."""
    net, model = pair(use_batch_norm, np.float64, rng)
    margins = margin_at_the_kink(model)
    expected = lockstep(model, copy.deepcopy(rng), options)
    assume(min(margins) > 1e-9)  # else the two may take different sides of a kink
    found = lockstep(net, rng, options)
    for step, (mine, its) in enumerate(zip(found, expected, strict=True)):
        assert mine.keys() == its.keys()
        largest = max(abs(value).max() for value in its.values())
        for name, value in its.items():
            assert_within(mine[name], value, 1e-12 * largest, f"{name} after step {step}")


@variants
@given(rng=rngs(), options=options_of_sgd)
def test_ten_steps_in_float32_drift_no_further_than_torchs_own(use_batch_norm, rng, options):
    """float64 is the truth; torch's own float32 shows what rounding does to this very run.

    npbn may lose four times as much (it loses less as a rule, its statistics are float64), plus
    64 roundings of the largest number, where torch was lucky.
    """
    net, single = pair(use_batch_norm, np.float32, rng)
    double = copy.deepcopy(single).double()
    margins = margin_at_the_kink(double)
    draws = [rng, copy.deepcopy(rng), copy.deepcopy(rng)]
    truth, its, mine = (
        lockstep(side, draw, options)
        for side, draw in zip((double, single, net), draws, strict=True)
    )
    assume(min(margins) > 1e-5)
    for step in range(10):
        largest = max(abs(value).max() for value in truth[step].values())
        drift = max(abs(its[step][name] - value).max() for name, value in truth[step].items())
        bound = 4 * drift + 64 * np.finfo(np.float32).eps * largest
        for name, value in truth[step].items():
            assert_within(mine[step][name], value, bound, f"{name} after step {step}")
