"""ONNX export against onnxruntime, and what it refuses."""

import numpy as np
import onnx
import pytest
from helpers import assert_within, rngs
from hypothesis import given
from hypothesis import strategies as st
from onnx_runtime import run

import npbn
from npbn.errors import ConfigError

VECTORS = {
    "Linear": lambda rng, dtype: npbn.Linear(6, 5, dtype=dtype, rng=rng),
    "without bias": lambda rng, dtype: npbn.Linear(6, 5, bias=False, dtype=dtype, rng=rng),
    "BatchNorm1d": lambda rng, dtype: npbn.BatchNorm1d(6, dtype=dtype),
    "no scale": lambda rng, dtype: npbn.BatchNorm1d(6, eps=0.1, affine=False, dtype=dtype),
    "no shift": lambda rng, dtype: npbn.BatchNorm1d(6, bias=False, dtype=dtype),
    "ghosts": lambda rng, dtype: npbn.GhostBatchNorm1d(6, 2, dtype=dtype),
    "renorm": lambda rng, dtype: npbn.BatchRenorm1d(6, 3.0, 5.0, eps=0.1, dtype=dtype),
    "ReLU": lambda rng, dtype: npbn.ReLU(),
    "Sigmoid": lambda rng, dtype: npbn.Sigmoid(),
    "Identity": lambda rng, dtype: npbn.Identity(),
    "Dropout": lambda rng, dtype: npbn.Dropout(0.5),
    "MLP": lambda rng, dtype: npbn.MLP(6, 5, 4, dtype=dtype, rng=rng),
    "nested": lambda rng, dtype: npbn.Sequential(
        npbn.Sequential(npbn.Linear(6, 3, dtype=dtype, rng=rng)), npbn.ReLU()
    ),
}
IMAGES = {
    "Conv2d": lambda rng, dtype: npbn.Conv2d(4, 6, 3, padding=1, dtype=dtype, rng=rng),
    "strided": lambda rng, dtype: npbn.Conv2d(
        4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False, dtype=dtype, rng=rng
    ),
    "same": lambda rng, dtype: npbn.Conv2d(4, 2, (2, 5), padding="same", dtype=dtype, rng=rng),
    "valid": lambda rng, dtype: npbn.Conv2d(4, 2, 3, padding="valid", dtype=dtype, rng=rng),
    "BatchNorm2d": lambda rng, dtype: npbn.BatchNorm2d(4, dtype=dtype),
    "ghosts of images": lambda rng, dtype: npbn.GhostBatchNorm2d(4, 2, bias=False, dtype=dtype),
    "renorm of images": lambda rng, dtype: npbn.BatchRenorm2d(4, 3.0, 5.0, dtype=dtype),
    "MaxPool2d": lambda rng, dtype: npbn.MaxPool2d(3, 2, 1),
    "dilated MaxPool2d": lambda rng, dtype: npbn.MaxPool2d((2, 3), 1, 0, 2),
    "MaxPool2d with ceil_mode": lambda rng, dtype: npbn.MaxPool2d((3, 3), 2, ceil_mode=True),
    "padded MaxPool2d with ceil_mode": lambda rng, dtype: npbn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "AvgPool2d with ceil_mode": lambda rng, dtype: npbn.AvgPool2d(3, 2, 0, True),
    "padded AvgPool2d with ceil_mode": lambda rng, dtype: npbn.AvgPool2d(4, 3, 1, True),
    "AvgPool2d of pixels with ceil_mode": lambda rng, dtype: npbn.AvgPool2d(4, 3, 1, True, False),
    "AvgPool2d": lambda rng, dtype: npbn.AvgPool2d(2),
    "padded AvgPool2d": lambda rng, dtype: npbn.AvgPool2d(3, 2, 1),
    "AvgPool2d of pixels": lambda rng, dtype: npbn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "AdaptiveAvgPool2d": lambda rng, dtype: npbn.AdaptiveAvgPool2d(1),
    "Flatten": lambda rng, dtype: npbn.Flatten(),
}
CNN = {"CNN": lambda rng, dtype: npbn.CNN(2, (9, 8), 5, 3, dtype=dtype, rng=rng)}
SHAPES = {**dict.fromkeys(VECTORS, (6,)), **dict.fromkeys(IMAGES, (4, 9, 8)), "CNN": (2, 9, 8)}
BUILDS = {**VECTORS, **IMAGES, **CNN}


def drawn(name, rng, dtype=np.float32):
    """Return a network whose vectors, statistics too, are as training leaves them."""
    net = BUILDS[name](rng, dtype)
    for key, array in net._state():
        if array.ndim == 1:
            array[...] = rng.uniform(0.5, 2, array.shape) * (-1 if key.endswith("mean") else 1)
    return net


@pytest.mark.parametrize("name", BUILDS)
def test_onnxruntime_predicts_what_npbn_predicts(name, tmp_path):
    """Both sum up to 200 terms of up to 10 in float32, a layer after the other: 1000 roundings."""
    rng = np.random.default_rng(0)
    net, path = drawn(name, rng), tmp_path / "net.onnx"
    npbn.export_onnx(net, path, input_shape=SHAPES[name])
    onnx.checker.check_model(onnx.load(path), full_check=True)
    for batch in (1, 5):  # the batch size is open
        x = rng.normal(size=(batch, *SHAPES[name])).astype(np.float32)
        expected = net.predict(x)
        bound = 1000 * np.finfo(np.float32).eps * max(np.abs(expected).max(), 1)
        assert_within(run(path, x), expected, bound, name)


@pytest.mark.parametrize("name", ["MLP", "CNN"])
@given(rng=rngs(), fold=st.booleans(), batch=st.integers(1, 4))
def test_the_networks_in_float64_folded_or_not(name, rng, fold, batch, tmp_path_factory):
    """2^-40 is 4000 roundings of the largest number."""
    net, path = drawn(name, rng, np.float64), tmp_path_factory.mktemp("onnx") / "net.onnx"
    npbn.export_onnx(net, path, fold=fold)
    model = onnx.load(path)
    operators = {node.op_type for node in model.graph.node}
    assert ("BatchNormalization" in operators) != fold
    assert {c.name for c in model.graph.initializer} >= {"fc1.weight", "fc2.bias"} - (
        set() if name == "CNN" or fold else {"fc2.bias"}
    )
    x = rng.normal(size=(batch, *SHAPES[name]))
    expected = net.predict(x)
    if name == "CNN":  # onnxruntime has no float64 convolution
        assert onnx.checker.check_model(model, full_check=True) is None
    else:
        bound = 2**-40 * max(np.abs(expected).max(), 1)
        assert_within(run(path, x), expected, bound, name)


def test_parameters_keep_their_names_and_the_shape_of_a_sample_is_the_first_layers(tmp_path):
    path = tmp_path / "net.onnx"
    npbn.export_onnx(npbn.MLP(6, 5, 4), path)
    model = onnx.load(path)
    names = {key for key in npbn.MLP(6, 5, 4).state_dict() if "tracked" not in key}
    assert {constant.name for constant in model.graph.initializer} == names
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 6]
    npbn.export_onnx(npbn.Conv2d(3, 2, 1), path)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]


def test_linear_layers_of_more_axes_are_exported_too(tmp_path):
    rng = np.random.default_rng(0)
    net, path = drawn("Linear", rng), tmp_path / "net.onnx"
    npbn.export_onnx(net, path, input_shape=(3, 6))
    x = rng.normal(size=(2, 3, 6)).astype(np.float32)
    assert_within(run(path, x), net.predict(x), 1e-5)


def test_a_warning_of_the_runtime_would_be_seen(tmp_path):
    path = tmp_path / "net.onnx"
    npbn.export_onnx(npbn.Linear(2, 2), path)
    model = onnx.load(path)
    model.graph.initializer.add(name="unused", dims=[1], data_type=1, float_data=[1.0])
    onnx.save(model, path)
    with pytest.raises(AssertionError, match="unused"):
        run(path, np.ones((1, 2), np.float32))


class Foreign(npbn.Module):
    pass


@pytest.mark.parametrize(
    ("net", "shape", "fragments"),
    [
        (Foreign(), (3,), ["foreign", "Foreign"]),
        (npbn.ReLU(), None, ["input_shape"]),
        (npbn.BatchNorm1d(3, track_running_stats=False), (3,), ["no running statistics"]),
        (npbn.MaxPool2d(2), (3,), ["input_shape=(C, H, W)"]),
        (npbn.AdaptiveAvgPool2d(2), (3, 4, 4), ["output_size=1"]),
        (npbn.AvgPool2d(2, divisor_override=3), (3, 4, 4), ["divisor_override"]),
        (npbn.Flatten(2), (3, 4, 4), ["Flatten"]),
        (npbn.Sequential(npbn.Linear(2, 2), npbn.Linear(2, 2).double()), None, ["one dtype"]),
    ],
)
def test_what_has_no_operator_is_refused_and_no_file_is_left(net, shape, fragments, tmp_path):
    with pytest.raises(ConfigError) as caught:
        npbn.export_onnx(net, tmp_path / "net.onnx", input_shape=shape)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_network_is_left_as_it_was(tmp_path):
    net = drawn("MLP", np.random.default_rng(0))
    before = net.state_dict()
    npbn.export_onnx(net, tmp_path / "net.onnx", fold=True)
    assert net.training
    assert list(net.state_dict()) == list(before)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
