"""ONNX export of drawn networks: every layer, odd names, every option; and what is refused."""

import numpy as np
import onnx
import pytest
from helpers import assert_within, rngs
from hypothesis import given
from hypothesis import strategies as st
from onnx_runtime import run

import npbn
from npbn.errors import ConfigError

NAMES = ["output", "x", "y", "batch", "Identity", "x,y", "a/b", "é", "x y", "\n", "0", "add"]
NAMES += ["weight", "Gemm", "shape", "y_", "model"]


def pooling(draw, sizes):
    """Draw a pooling layer that images of these sizes go through."""
    kernel = draw(st.tuples(*(st.integers(1, min(4, size)) for size in sizes)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil_mode = draw(st.booleans())
    if draw(st.booleans()):
        dilation = tuple(
            draw(st.integers(1, 2 if 2 * k - 1 <= n else 1))
            for k, n in zip(kernel, sizes, strict=True)
        )
        return npbn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    return npbn.AvgPool2d(kernel, stride, padding, ceil_mode, draw(st.booleans()))


def images_layer(draw, rng, shape):
    channels, *sizes = shape
    kind = draw(st.sampled_from(["conv", "same", "norm", "pool", "pool", "relu", "dropout"]))
    match kind:
        case "conv" | "same":
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
            kernel = draw(st.tuples(*(st.integers(1, min(3, size)) for size in sizes)))
            options = (
                {"padding": "same"}
                if kind == "same"
                else {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 1))}
            )
            outputs = groups * draw(st.integers(1, 2))
            return npbn.Conv2d(
                channels,
                outputs,
                kernel,
                groups=groups,
                bias=draw(st.booleans()),
                rng=rng,
                **options,
            )
        case "norm":
            options = {"eps": 0.1, "affine": draw(st.booleans()), "bias": draw(st.booleans())}
            return draw(
                st.sampled_from(
                    [
                        npbn.BatchNorm2d(channels, **options),
                        npbn.GhostBatchNorm2d(channels, 2, **options),
                        npbn.BatchRenorm2d(channels, 3.0, 5.0, **options),
                    ]
                )
            )
        case "pool":
            return pooling(draw, sizes)
    return npbn.ReLU() if kind == "relu" else npbn.Dropout(0.5)


@st.composite
def networks(draw):
    """Return a network that takes images, and their shape."""
    rng = draw(rngs())
    shape = start = draw(st.tuples(st.integers(1, 3), st.integers(2, 7), st.integers(2, 7)))
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        layers.append(images_layer(draw, rng, shape))
        shape = layers[-1].predict(np.zeros((1, *shape), np.float32)).shape[1:]
    if draw(st.booleans()):
        layers.append(npbn.AdaptiveAvgPool2d(1))
        shape = (shape[0], 1, 1)
    if draw(st.booleans()):
        layers += [npbn.Flatten(), npbn.Linear(int(np.prod(shape)), 3, rng=rng), npbn.Sigmoid()]
        layers += [npbn.BatchNorm1d(3, bias=False), npbn.Identity()]
    names = draw(st.permutations(NAMES))
    split = draw(st.integers(0, len(layers)))
    named = list(zip(names, layers, strict=False))
    inner = npbn.Sequential(dict(named[split:]))
    net = npbn.Sequential({**dict(named[:split]), names[-1]: inner})
    fill(net, rng)
    return net, start


def fill(net, rng):
    """Give vectors, statistics too, values as training leaves them."""
    for key, array in net._state():
        if array.ndim == 1:
            array[...] = rng.uniform(0.5, 2, array.shape) * (-1 if key.endswith("mean") else 1)


@st.composite
def networks_of_vectors(draw, dtype):
    """Return a network that takes vectors or sequences of them, and their shape."""
    rng = draw(rngs())
    shape = start = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    layers = []
    for kind in draw(st.lists(st.sampled_from(["linear", "norm", "other"]), max_size=5)):
        if kind == "linear":
            outputs, bias = draw(st.integers(1, 5)), draw(st.booleans())
            made = npbn.Linear(shape[-1], outputs, bias, dtype=dtype, rng=rng)
            shape = (*shape[:-1], outputs)
        elif kind == "norm" and len(shape) < 3:
            kinds = [npbn.BatchNorm1d, npbn.GhostBatchNorm1d, npbn.BatchRenorm1d]
            more = draw(st.sampled_from([(kinds[0],), (kinds[1], 2), (kinds[2], 3.0, 5.0)]))
            made = more[0](shape[0], *more[1:], eps=0.1, bias=draw(st.booleans()), dtype=dtype)
        else:
            made = draw(st.sampled_from([npbn.ReLU, npbn.Sigmoid, npbn.Identity, npbn.Dropout]))()
        layers.append(made)
    names = draw(st.permutations(NAMES))
    net = npbn.Sequential(dict(zip(names, layers, strict=False)))
    fill(net, rng)
    return net, start


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data(), rng=rngs(), batch=st.integers(1, 3))
def test_drawn_networks_of_vectors_run_as_they_predict(tmp_path_factory, dtype, data, rng, batch):
    """Five layers of sums of five terms: 1000 roundings."""
    net, shape = data.draw(networks_of_vectors(dtype))
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    npbn.export_onnx(net, path, input_shape=shape)
    dtype = next((p.dtype for _, p in net._state() if p.dtype.kind == "f"), np.dtype(np.float32))
    x = rng.normal(size=(batch, *shape)).astype(dtype)
    expected = net.predict(x)
    bound = 1000 * np.finfo(dtype).eps * max(np.abs(expected).max(initial=0), 1)
    assert_within(run(path, x), expected, bound)


@given(networks(), rngs(), st.integers(1, 3))
def test_drawn_networks_run_as_they_predict(tmp_path_factory, case, rng, batch):
    """The terms of a sum are at most 147, those of four layers in turn below 1000 roundings."""
    (net, shape), path = case, tmp_path_factory.mktemp("onnx") / "net.onnx"
    npbn.export_onnx(net, path, input_shape=shape)
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    expected = net.predict(x)
    bound = 1000 * np.finfo(np.float32).eps * max(np.abs(expected).max(initial=0), 1)
    assert_within(run(path, x), expected, bound)


def test_a_window_that_torch_drops_is_not_counted_by_the_shapes_either(tmp_path):
    """At opset 18 the shape inferred was (3, 3), and the Linear after it did not fit."""
    net = npbn.Sequential(
        npbn.MaxPool2d(3, 3, 1, ceil_mode=True), npbn.Flatten(), npbn.Linear(4, 1)
    )
    npbn.export_onnx(net, tmp_path / "net.onnx", input_shape=(1, 5, 5))
    x = np.random.default_rng(0).normal(size=(2, 1, 5, 5)).astype(np.float32)
    assert_within(run(tmp_path / "net.onnx", x), net.predict(x), 1e-5)
    pool = net[:1]
    npbn.export_onnx(pool, tmp_path / "pool.onnx", input_shape=(1, 5, 5))
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "pool.onnx"))
    (value,) = [v for v in inferred.graph.value_info if v.name == "0.y"]
    assert [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:] == [1, 2, 2]


def test_a_layer_may_have_the_name_of_anything_in_the_file(tmp_path):
    """A layer named output made a file that onnxruntime refused."""
    for name in NAMES:
        net = npbn.Sequential({name: npbn.Linear(2, 2), "z": npbn.ReLU()})
        npbn.export_onnx(net, tmp_path / "net.onnx")
        x = np.ones((1, 2), np.float32)
        assert_within(run(tmp_path / "net.onnx", x), net.predict(x), 1e-6)


def test_the_dtype_is_that_of_the_statistics_too(tmp_path):
    """A BatchNorm without parameters was exported as float32, and lost 1e8 and a half."""
    net = npbn.BatchNorm1d(1, affine=False, dtype=np.float64)
    net.running_mean[...] = 1e8
    npbn.export_onnx(net, tmp_path / "net.onnx", input_shape=(1,))
    x = np.array([[1e8 + 0.5]])
    assert_within(run(tmp_path / "net.onnx", x), net.predict(x), 1e-7)
    mixed = npbn.Sequential(npbn.Linear(1, 1), npbn.BatchNorm1d(1, affine=False, dtype=np.float64))
    with pytest.raises(ConfigError, match="one dtype, got float32, float64"):
        npbn.export_onnx(mixed, tmp_path / "mixed.onnx")


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (npbn.Linear(3, 2), (4,), ["input_shape (4,)", "Linear(3, 2)"]),
        (npbn.CNN(1, 28), (1, 27, 28), ["CNN", "28, 28"]),
        (npbn.Linear(3, 2), (0,), ["positive"]),
        (npbn.Linear(3, 2), (-3,), ["positive"]),
        (npbn.Linear(3, 2), ("3",), ["positive"]),
        (npbn.BatchNorm1d(3), (3, 4, 4), ["BatchNorm1d(3", "(N, C)", "4 axes"]),
        (npbn.BatchNorm2d(3), (3,), ["BatchNorm2d(3", "(N, C, H, W)", "2 axes"]),
        (npbn.Sequential(npbn.Conv2d(1, 2, 1), npbn.BatchNorm1d(2)), None, ["(N, C)", "4 axes"]),
        (npbn.Conv2d(1, 1, 3), (1, 2, 2), ["input_shape (1, 2, 2)"]),
        (npbn.Sequential({"\udcff": npbn.Linear(1, 1)}), None, ["not valid Unicode"]),
    ],
)
def test_what_predict_would_refuse_is_refused(net, shape, words, tmp_path):
    with pytest.raises(ConfigError, match="export_onnx") as caught:
        npbn.export_onnx(net, tmp_path / "net.onnx", input_shape=shape)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not list(tmp_path.iterdir())
