"""A subclass is not taken for its base: by export, folding, description and the rule itself."""

import types

import numpy as np
import pytest

import npbn
from npbn.deploy.config import state_shapes, to_config
from npbn.errors import ConfigError
from npbn.layers.plain import computes, float_dtypes, own_behaviour


class Residual(npbn.Sequential):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return x + y, cache


class Reversed(npbn.Sequential):
    def _layers(self):
        return super()._layers()[::-1]


class Leaky(npbn.ReLU):
    def _apply(self, x, predict):
        return np.where(x > 0, x, 0.1 * x), None


class Clamping(npbn.BatchNorm1d):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return np.clip(y, 0, None), cache


class Doubling(npbn.Identity):
    def _apply(self, x, predict):
        return 2 * x, None


class ByForward(npbn.Identity):
    def forward(self, x):
        return 2 * x


class Scaled(npbn.Linear):
    def predict(self, x):
        return 2 * super().predict(x)


class Noisy(npbn.Dropout):
    def _apply(self, x, predict):
        return super()._apply(x, False)


class Strided(npbn.Conv2d):
    def _apply(self, x, predict):
        return super()._apply(x[..., ::2], predict)


class Harmless(npbn.BatchNorm1d):
    """A constructor, methods and a name of its own: no other numbers."""

    def __init__(self, features):
        super().__init__(features, momentum=0.01)

    def extra_repr(self):
        return "harmless"

    def reach(self):
        return self.momentum


class Still(npbn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


class Squeezing(npbn.BatchNorm1d):
    def _apply_in_training(self, x, weight, bias):
        y, cache = super()._apply_in_training(x, weight, bias)
        return y / 2, cache


def patched(layer):
    """Return the layer with a method of this one object's own."""
    layer._apply = types.MethodType(lambda self, x, predict: (2 * x, None), layer)
    return layer


OTHERS = {
    "residual": (lambda: Residual(npbn.Linear(2, 2)), (2,)),
    "reversed": (lambda: Reversed(npbn.Linear(2, 2), npbn.ReLU()), (2,)),
    "leaky": (Leaky, (2,)),
    "clamping": (lambda: Clamping(2), (2,)),
    "doubling": (Doubling, (2,)),
    "by forward": (ByForward, (2,)),
    "scaled": (lambda: Scaled(2, 2), (2,)),
    "noisy": (Noisy, (2,)),
    "strided": (lambda: Strided(1, 1, 1), (1, 4, 4)),
    "patched": (lambda: patched(npbn.ReLU()), (2,)),
    "patched linear": (lambda: patched(npbn.Linear(2, 2)), (2,)),
    "patched sequential": (lambda: patched(npbn.Sequential(npbn.Linear(2, 2))), (2,)),
}


NESTED = [name for name in OTHERS if name != "by forward"]  # which Sequential refuses


@pytest.mark.parametrize(
    ("name", "nested"), [*((name, False) for name in OTHERS), *((name, True) for name in NESTED)]
)
def test_what_computes_something_else_is_neither_exported_nor_described(name, nested, tmp_path):
    make, shape = OTHERS[name]
    net = npbn.Sequential(a=npbn.Sequential(b=make())) if nested else make()
    with pytest.raises(ConfigError, match="a.b|" + type(make()).__name__):
        npbn.export_onnx(net, tmp_path / "net.onnx", input_shape=shape)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=type(make()).__name__):
        to_config(net)
    npbn.save(net, tmp_path / "net.npz")
    assert "config" not in npbn.load(tmp_path / "net.npz").metadata


@pytest.mark.parametrize("name", ["clamping", "patched linear", "scaled", "leaky", "doubling"])
def test_what_computes_something_else_takes_no_batch_norm_in(name):
    layer = OTHERS[name][0]()
    with pytest.raises(ConfigError, match=r"cannot be folded|may use it in another way"):
        npbn.fold_batch_norm(npbn.Sequential(layer, npbn.BatchNorm1d(2)))


def test_the_networks_of_npbn_run_in_order_though_one_looks_at_its_input_before():
    for net in (npbn.MLP(2, 2, 2), npbn.CNN(1, 4, 2, 2), npbn.Sequential()):
        assert computes(net, npbn.Sequential)
        assert to_config(net)["type"] == "Sequential"
    with pytest.raises(npbn.errors.ShapeError, match="CNN"):
        npbn.CNN(1, 4).predict(np.zeros((1, 1, 5, 4), np.float32))


def test_training_counts_for_conversion_and_not_for_folding():
    ghosts, renorm = npbn.GhostBatchNorm1d(2, 2), npbn.BatchRenorm1d(2, 3.0, 5.0)
    for layer in (ghosts, renorm, Squeezing(2), Still(2)):
        assert computes(layer, npbn.BatchNorm1d)
        assert own_behaviour(layer, npbn.BatchNorm1d)
    for layer in (npbn.BatchNorm1d(2), Harmless(2), npbn.BatchNorm1d(2).eval()):
        assert computes(layer, npbn.BatchNorm2d, npbn.BatchNorm1d)
        assert own_behaviour(layer, npbn.BatchNorm1d) is None
    assert own_behaviour(Clamping(2), npbn.BatchNorm1d) == "_apply"
    assert own_behaviour(Still(2), npbn.BatchNorm1d) == "train"
    assert own_behaviour(patched(npbn.BatchNorm1d(2)), npbn.BatchNorm1d)
    assert not computes(npbn.ReLU(), npbn.BatchNorm1d)


def test_a_layer_that_update_batch_norm_observes_is_still_plain():
    layer = npbn.BatchNorm1d(2)
    layer.observer = print
    assert own_behaviour(layer, npbn.BatchNorm1d) is None


def test_a_harmless_subclass_is_exported_and_folded(tmp_path):
    net = npbn.Sequential(npbn.Linear(2, 2), Harmless(2))
    x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    folded = npbn.fold_batch_norm(net)
    np.testing.assert_allclose(folded.predict(x), net.predict(x), rtol=1e-5, atol=1e-6)
    npbn.export_onnx(net, tmp_path / "net.onnx")


def test_the_dtypes_of_a_network_are_its_buffers_too():
    assert float_dtypes(npbn.BatchNorm1d(1, affine=False, dtype=np.float64)) == [np.float64]
    assert float_dtypes(npbn.ReLU()) == []
    mixed = npbn.Sequential(npbn.Linear(1, 1), npbn.BatchNorm1d(1, affine=False, dtype="float64"))
    assert float_dtypes(mixed) == [np.float32, np.float64]


# -- descriptions of what was changed since it was made -------------------------------------------


def without_weight():
    layer = npbn.BatchNorm1d(2)
    layer.weight = None
    layer.bias = None
    return layer


def without_bias():
    layer = npbn.BatchNorm1d(2)
    layer.bias = None
    return layer


def without_statistics():
    layer = npbn.BatchNorm2d(2)
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return layer


def linear_without_bias():
    layer = npbn.Linear(2, 2)
    layer.bias = None
    return layer


@pytest.mark.parametrize(
    "make", [without_weight, without_bias, without_statistics, linear_without_bias]
)
def test_arrays_that_were_taken_away_are_not_in_the_description(make):
    """`to_config` said affine: True, and the network it described could not load the state."""
    layer = make()
    again = npbn.from_config(to_config(layer), state=layer.state_dict())
    assert list(again.state_dict()) == list(layer.state_dict())
    shapes = {key: array.shape for key, array in layer.state_dict().items()}
    assert state_shapes(to_config(layer)) == shapes


def bias_alone():
    layer = npbn.BatchNorm1d(2)
    layer.weight = None
    return layer


def without_mean():
    layer = npbn.BatchNorm1d(2)
    layer.running_mean = None
    return layer


def of_other_shape():
    layer = npbn.Linear(2, 2)
    layer.weight = npbn.Parameter(np.ones((2, 3), np.float32))
    return layer


@pytest.mark.parametrize(
    ("make", "key"),
    [(bias_alone, "bias"), (without_mean, "running_var"), (of_other_shape, "weight")],
)
def test_arrays_that_no_layer_is_made_with_are_not_described(make, key):
    with pytest.raises(ConfigError, match=rf"to_config: '0\.{key}'"):
        to_config(npbn.Sequential(make()))
