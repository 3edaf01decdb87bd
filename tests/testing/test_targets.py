"""Targets by name."""

import numpy as np
import pytest

import npbn
from npbn.testing import check_batch_norm
from npbn.testing.adapters import adapter_of
from npbn.testing.targets import adapt, load_target


def test_npbn_by_name():
    assert load_target("npbn:BatchNorm2d").name == "BatchNorm2d"


def test_a_class_a_function_and_what_is_adapted_already():
    class Mine:
        def __init__(self, num_features, eps, momentum):
            pass

    implementation = adapt(Mine)
    assert implementation.name == "Mine"
    assert adapt(implementation) is implementation
    assert "backward" in adapt(npbn.functional.batch_norm).unsupported


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:BatchNorm", "cannot import 'nowhere:BatchNorm': ModuleNotFoundError: .*nowhere"),
        ("npbn:BatchNorm9d", "cannot import 'npbn:BatchNorm9d': AttributeError: .*BatchNorm9d"),
        ("npbn", "expected TARGET as package.module:object or model.onnx, got 'npbn'"),
        ("npbn:", "expected TARGET as"),
        (":BatchNorm", "expected TARGET as"),
        ("", "expected TARGET as"),
        ("npbn:__version__", "npbn:__version__ is str: expected a class or a function"),
        ("npbn:Linear", "npbn:Linear is no BatchNorm"),
        ("npbn:Sequential", "npbn:Sequential is no BatchNorm"),
        ("npbn..errors:ShapeError", "cannot import"),
        ("nowhere.onnx", "cannot load 'nowhere.onnx'"),
        ("onnx:nowhere.onnx", "cannot load 'onnx:nowhere.onnx'"),
    ],
)
def test_what_is_no_target_is_an_error_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_target(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first second$"),
        ("import sys; sys.exit(0)", "SystemExit: 0$"),
        ("def f(:", "SyntaxError: "),
        ("import nothing_of_this_name", "ModuleNotFoundError: .*nothing_of_this_name"),
        ("raise KeyError", "KeyError$"),
    ],
)
def test_a_module_that_fails_says_so_itself(tmp_path, monkeypatch, text, message):
    (tmp_path / "broken_for_this_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        load_target("broken_for_this_test:Mine")
    assert "\n" not in str(caught.value)


def test_a_file_beside_the_caller(tmp_path, monkeypatch):
    (tmp_path / "beside_for_this_test.py").write_text(
        "from npbn.testing.mutants.forward import UnbiasedNormalisation as Mine\n"
    )
    monkeypatch.chdir(tmp_path)
    report = check_batch_norm(
        load_target("beside_for_this_test:Mine"), examples=2, only="output in training"
    )
    assert not report.correct


def test_adapters_are_chosen_by_the_module():
    class Like:
        pass

    assert adapter_of(Like) is None
    Like.__module__ = "mygrad_of_mine.layers"
    assert adapter_of(Like) is None
    pytest.importorskip("mygrad")
    Like.__module__ = "mygrad.nnet.layers"
    assert adapter_of(Like).__name__ == "npbn.testing.adapters.mygrad"
    derived = type("Derived", (Like,), {"__module__": __name__})
    assert adapter_of(derived).__name__ == "npbn.testing.adapters.mygrad"


@pytest.fixture
def model_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def write(*operators, rank=None):
        nodes, name = [], "x"
        for place, operator in enumerate(operators):
            vectors = ["s", "b", "m", "v"] if operator == "BatchNormalization" else []
            nodes.append(helper.make_node(operator, [name, *vectors], [f"t{place}"]))
            name = f"t{place}"
        vector = np.ones(3, np.float32)
        kept = [onnx.numpy_helper.from_array(vector, letter) for letter in "sbmv"]
        shape = None if rank is None else [None] * rank
        ends = [
            helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, shape) for end in ("x", name)
        ]
        graph = helper.make_graph(nodes, "model", ends[:1], ends[1:], kept)
        opsets = [helper.make_opsetid("", 15)]
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return str(path)

    return write


@pytest.mark.parametrize(
    "runtime", ["", pytest.param("onnxruntime:", marks=pytest.mark.slow), "onnx:"]
)
def test_a_model_of_ones_own(model_file, runtime):
    if runtime != "onnx:":
        pytest.importorskip("onnxruntime")
    name = runtime + model_file("Identity", "BatchNormalization", "Identity", rank=3)
    implementation = load_target(name)
    assert {"rank2", "training", "float64"} <= implementation.unsupported
    report = check_batch_norm(implementation, examples=2, only="output in evaluation")
    assert report.correct, report.table()
    wrong = load_target(runtime + model_file("BatchNormalization", "Neg"))
    assert not check_batch_norm(wrong, examples=2, only="output in evaluation").correct


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (("Relu",), "expected one BatchNormalization, got 0 \\(it has Relu\\)"),
        (("BatchNormalization", "BatchNormalization"), "expected one BatchNormalization, got 2"),
    ],
)
def test_a_model_without_batch_norm(model_file, operators, message):
    with pytest.raises(ValueError, match=message):
        load_target("onnx:" + model_file(*operators))


def test_a_file_that_is_no_model(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "text.onnx").write_text("no model\n" * 9)
    with pytest.raises(ValueError, match="cannot load") as caught:
        load_target(f"onnx:{tmp_path / 'text.onnx'}")
    assert "\n" not in str(caught.value)
