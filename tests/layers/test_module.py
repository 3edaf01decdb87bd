"""Module: registration, traversal, modes, what waits for backward, text."""

import copy
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_same_bits
from torch import nn

import npbn
from npbn.errors import BackwardError, DtypeError, ShapeError

OURS = SimpleNamespace(**{name: getattr(npbn, name) for name in npbn.__all__}, zeros=np.zeros)
TORCHS = SimpleNamespace(**vars(nn), zeros=torch.zeros)


def odd_network(library):
    """Build one structure in either library: nested, with shared layers and a shared parameter."""

    class Block(library.Module):
        def __init__(self, fc):
            super().__init__()
            self.register_buffer("seen", library.zeros(3))
            self.register_buffer("absent", None)
            self.fc = fc
            self.scale = library.Parameter(library.zeros(2))
            self.norm = library.BatchNorm1d(3, affine=False)
            self.nothing = None
            self.note = "no part of the state"

    shared = library.Linear(2, 3, bias=False)
    first = Block(shared)
    net = library.Sequential(first, library.ReLU(), Block(shared), first)
    net.append(library.Sequential(Block(library.Linear(2, 3))))
    net[2].scale = first.scale
    return net


def small_network(dtype=np.float32):
    rng = np.random.default_rng(0)
    return npbn.Sequential(
        fc=npbn.Linear(3, 2, dtype=dtype, rng=rng), bn=npbn.BatchNorm1d(2, dtype=dtype)
    )


def run(net, seed=0, dtype=np.float32):
    """Go forward, back, and forward again: gradients, statistics and a pending cache."""
    x, grad_output = np.random.default_rng(seed).normal(size=(2, 4, 3)).astype(dtype)
    net(x)
    net.backward(grad_output[:, :2])
    return net(x), grad_output[:, :2]


# -- registration and traversal -------------------------------------------------------------

TRAVERSALS = {
    "named_parameters": lambda net: [(n, tuple(p.shape)) for n, p in net.named_parameters()],
    "parameters": lambda net: [tuple(p.shape) for p in net.parameters()],
    "named_buffers": lambda net: [(n, tuple(b.shape)) for n, b in net.named_buffers()],
    "named_children": lambda net: [(n, type(c).__name__) for n, c in net.named_children()],
    "children": lambda net: [type(c).__name__ for c in net.children()],
    "named_modules": lambda net: [(n, type(m).__name__) for n, m in net.named_modules()],
    "modules": lambda net: [type(m).__name__ for m in net.modules()],
    "state_dict": lambda net: [(n, tuple(v.shape)) for n, v in net.state_dict().items()],
}


@pytest.mark.parametrize("traversal", TRAVERSALS)
def test_traversal_is_torchs(traversal):
    """A shared module once, a shared parameter once, but under each of its keys in the state."""
    mine, its = odd_network(OURS), odd_network(TORCHS)
    assert TRAVERSALS[traversal](mine) == TRAVERSALS[traversal](its)
    assert TRAVERSALS[traversal](mine[0]) == TRAVERSALS[traversal](its[0])


def test_named_modules_takes_a_prefix_and_shows_duplicates_when_asked():
    mine, its = odd_network(OURS), odd_network(TORCHS)
    for arguments in ({"prefix": "net"}, {"remove_duplicate": False}):
        names = [name for name, _ in mine.named_modules(**arguments)]
        assert names == [name for name, _ in its.named_modules(**arguments)]


def test_parameters_and_submodules_register_by_assignment_and_vanish_with_none_or_del():
    module = npbn.Module()
    module.layer = npbn.Linear(2, 2, bias=False)
    module.weight = npbn.Parameter(np.zeros(1))
    assert list(module.state_dict()) == ["weight", "layer.weight"]
    module.weight = None
    assert list(module.state_dict()) == ["layer.weight"]
    del module.layer
    assert list(module.state_dict()) == []


def test_parameters_of_a_child_are_the_childs_own_objects():
    net = small_network()
    assert next(net.parameters()) is net.fc.weight
    assert dict(net.named_buffers())["bn.running_mean"] is net.bn.running_mean


def test_a_buffer_is_state_but_not_learnt():
    module = npbn.Module()
    module.register_buffer("count", np.array(3))
    module.register_buffer("absent", None)
    assert [name for name, _ in module.named_buffers()] == ["count"]
    assert list(module.parameters()) == []
    module.count = np.array(4)
    module.absent = np.zeros(2)
    assert module.state_dict() == {"count": 4, "absent": pytest.approx(np.zeros(2))}


@pytest.mark.parametrize("name", ["weight", "training", "forward", "running"])
def test_a_buffer_may_not_take_a_name_in_use(name):
    module = npbn.Linear(2, 2)
    module.register_buffer("running", np.zeros(2))
    with pytest.raises(KeyError, match=name):
        module.register_buffer(name, np.zeros(1))
    assert list(module.state_dict()) == ["weight", "bias", "running"]


@pytest.mark.parametrize("value", [[1.0, 2.0], 3.0, torch.zeros(2)])
def test_a_refused_buffer_leaves_the_module_as_it_was(value):
    module = npbn.Linear(2, 2)
    with pytest.raises(TypeError, match="ndarray"):
        module.register_buffer("wrong", value)
    assert list(module.state_dict()) == ["weight", "bias"]
    assert not hasattr(module, "wrong")


@pytest.mark.parametrize("value", [np.zeros((2, 3), np.float32), [[0.0] * 3] * 2, 0.5])
def test_nothing_but_a_parameter_or_none_may_take_a_parameters_place(value):
    net = small_network()
    weight = net.fc.weight
    with pytest.raises(TypeError, match=r"Linear\.weight is a Parameter"):
        net.fc.weight = value
    assert net.fc.weight is weight


@pytest.mark.parametrize("value", [[0.0, 0.0], 0.0, npbn.Parameter(np.zeros(2))])
def test_nothing_but_an_array_or_none_may_take_a_buffers_place(value):
    net = small_network()
    with pytest.raises(TypeError, match=r"BatchNorm1d\.running_mean is a buffer"):
        net.bn.running_mean = value
    assert list(net.state_dict()) == list(small_network().state_dict())


# -- modes, gradients, dtypes ---------------------------------------------------------------


def test_train_and_eval_reach_every_module_and_return_the_network():
    net = odd_network(OURS)
    assert all(module.training for module in net.modules())
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert net[2].train() is net[2]
    assert [child.training for child in net] == [False, False, True, False, False]
    assert net.train(False).train() is net
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("mode", ["eval", 1, None])
def test_train_takes_a_bool(mode):
    with pytest.raises(ValueError, match="True or False"):
        npbn.ReLU().train(mode)


def test_modes_of_numpys_booleans_become_pythons():
    net = npbn.Linear(2, 2).train(np.False_)
    assert net.training is False
    assert net.train(np.True_).training is True
    assert net.freeze(np.True_).frozen is True
    assert net.requires_grad_(np.True_).weight.requires_grad is True


def test_zero_grad_forgets_gradients_and_leaves_those_that_are_held():
    net = small_network()
    run(net)
    held = [parameter.grad for parameter in net.parameters()]
    copies = copy.deepcopy(held)
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    run(net, seed=1)
    for grad, its_copy in zip(held, copies, strict=True):
        assert_same_bits(grad, its_copy)


def test_gradients_accumulate_into_new_arrays():
    net = small_network()
    _, grad_output = run(net)
    first = {name: parameter.grad for name, parameter in net.named_parameters()}
    copies = copy.deepcopy(first)
    net.backward(2 * grad_output)
    for name, parameter in net.named_parameters():
        # The same input again, and scaling by 2 is exact: g + 2 g rounds once, as 3 g does.
        assert_same_bits(first[name], copies[name])
        assert_same_bits(parameter.grad, 3 * copies[name])


@pytest.mark.parametrize("start", [np.float32, np.float64])
@pytest.mark.parametrize(("cast", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_float_and_double_cast_parameters_gradients_and_buffers(start, cast, dtype):
    net = small_network(start)
    run(net, dtype=start)
    net.fc.bias.grad = None
    state, weight, grad = net.state_dict(), net.fc.weight, net.fc.weight.grad
    assert getattr(net, cast)() is net
    for key, value in net.state_dict().items():
        tracked = key == "bn.num_batches_tracked"
        assert value.dtype == (np.int64 if tracked else dtype)
        assert_same_bits(value, state[key].astype(value.dtype))
    assert net.fc.weight is weight
    assert weight.grad.dtype == dtype
    assert_same_bits(weight.grad, grad.astype(dtype))
    assert net.fc.bias.grad is None
    with pytest.raises(BackwardError):
        net.backward(np.zeros((4, 2), dtype))
    run(net, dtype=dtype)


@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "c8"])
def test_buffers_that_are_no_floats_keep_their_dtype(dtype):
    module = npbn.Module()
    module.register_buffer("state", np.ones(2, dtype))
    for cast in ("double", "float", "half"):
        assert getattr(module, cast)().state.dtype == dtype


def test_casting_keeps_shared_parameters_shared():
    net = odd_network(OURS).double()
    assert net[0].scale is net[2].scale
    assert {parameter.dtype for parameter in net.parameters()} == {np.dtype(np.float64)}


# -- what is waiting for backward -----------------------------------------------------------


def test_backward_needs_a_forward_of_its_own():
    net = small_network()
    x = np.zeros((4, 3), np.float32)
    grad_output = np.ones((4, 2), np.float32)
    for prepare in (lambda: None, lambda: net.predict(x)):
        prepare()
        with pytest.raises(BackwardError, match=r"Sequential\.backward"):
            net.backward(grad_output)
    net(x)
    net.backward(grad_output)
    with pytest.raises(BackwardError):
        net.backward(grad_output)


def test_a_wrong_grad_output_is_refused_and_backward_still_possible():
    net, twin = small_network(), small_network()
    _, grad_output = run(net)
    run(twin)
    before = copy.deepcopy([parameter.grad for parameter in net.parameters()])
    for error, wrong in (
        (ShapeError, grad_output[:3]),
        (ShapeError, grad_output[:, :1]),
        (ShapeError, np.float32(1)),
        (DtypeError, grad_output.astype(np.float64)),
    ):
        with pytest.raises(error, match=r"Sequential\.backward: expected grad_output"):
            net.backward(wrong)
    for parameter, grad in zip(net.parameters(), before, strict=True):
        assert_same_bits(parameter.grad, grad)
    assert_same_bits(net.backward(grad_output), twin.backward(grad_output))


def test_predict_is_eval_mode_keeps_nothing_and_leaves_what_is_waiting():
    net, twin = small_network(), small_network()
    y, grad_output = run(net)
    run(twin)
    x = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    before = net.state_dict()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(net.predict, [x] * 8))
    expected = copy.deepcopy(net).eval()(x)
    assert not np.allclose(net.predict(x[:4]), y)
    for answer in answers:
        assert_same_bits(answer, expected)
    for key, value in net.state_dict().items():
        assert_same_bits(value, before[key])
    assert_same_bits(net.backward(grad_output), twin.backward(grad_output))


# -- as text --------------------------------------------------------------------------------


class Annotated:
    """Mixin: arguments to print beside the children."""

    def extra_repr(self):
        return "rate=2"


def annotated(library, *layers):
    module = type("Annotated", (Annotated, library.Module), {})()
    for number, layer in enumerate(layers):
        setattr(module, f"layer{number}", layer)
    return module


@pytest.mark.parametrize(
    "build",
    {
        "linear": lambda library: library.Linear(3, 2, bias=False),
        "batch_norm": lambda library: library.BatchNorm1d(3, 1e-3, None, track_running_stats=False),
        "batch_norm_without_bias": lambda library: library.BatchNorm1d(3, bias=False),
        "batch_norm_not_affine": lambda library: library.BatchNorm1d(3, affine=False),
        "flatten": lambda library: library.Flatten(0, 1),
        "cross_entropy": lambda library: library.CrossEntropyLoss(),
        "mse": lambda library: library.MSELoss(),
        "empty": lambda library: library.Sequential(),
        "odd": odd_network,
        "nested": lambda library: library.Sequential(
            library.Sequential(library.Sigmoid(), library.Identity(3)), library.ReLU()
        ),
        "extra_repr": lambda library: annotated(library),
        "extra_repr_and_children": lambda library: annotated(library, library.ReLU()),
    }.items(),
    ids=lambda item: item[0],
)
def test_repr_is_torchs(build):
    _, make = build
    assert repr(make(OURS)) == repr(make(TORCHS))
