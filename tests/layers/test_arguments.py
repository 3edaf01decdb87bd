"""Arguments of the wrong kind are refused where they are passed, in one error that names them.

BatchNorm1d(3, momentum="0.1") failed after it had counted a batch, affine="no" meant yes.
"""

import numpy as np
import pytest

import npbn
from npbn.arguments import check_bool, check_integer, check_number
from npbn.errors import DtypeError, StateDictError

DATA = npbn.ArrayDataset(np.zeros((3, 2)))
PARAMETERS = [npbn.Parameter(np.ones(2))]
NO_BOOLS = ["no", None, 1, 0.0, [True]]
NO_NUMBERS = ["0.1", 1j, [0.1], True, np.ones(2)]
NO_INTEGERS = ["3", 2.0, None, [3], True]


def made_with(kind, **usual):
    """Return a function that makes a layer with usual arguments, but for those that are given."""
    return lambda **given: kind(**{**usual, **given})


NORMS = {
    "BatchNorm1d": made_with(npbn.BatchNorm1d, num_features=3),
    "BatchNorm2d": made_with(npbn.BatchNorm2d, num_features=3),
    "BatchNorm3d": made_with(npbn.BatchNorm3d, num_features=3),
    "GhostBatchNorm1d": made_with(npbn.GhostBatchNorm1d, num_features=3, ghost_size=2),
    "BatchRenorm1d": made_with(npbn.BatchRenorm1d, num_features=3, r_max=1.0, d_max=0.0),
}
LINEAR = made_with(npbn.Linear, in_features=3, out_features=2)
CONV = made_with(npbn.Conv2d, in_channels=2, out_channels=2, kernel_size=3)
SGD = made_with(npbn.SGD, params=PARAMETERS)
LOADER = made_with(npbn.DataLoader, dataset=DATA)

WRONG = [
    *((NORMS[kind], "num_features", v) for kind in NORMS for v in [*NO_INTEGERS, -1]),
    *((NORMS[kind], "eps", v) for kind in NORMS for v in [*NO_NUMBERS, None]),
    *((NORMS[kind], "momentum", v) for kind in NORMS for v in NO_NUMBERS),
    *((NORMS[kind], name, v) for kind in NORMS for name in ("affine", "bias") for v in NO_BOOLS),
    *((NORMS["BatchNorm2d"], "track_running_stats", v) for v in NO_BOOLS),
    *((NORMS["GhostBatchNorm1d"], "ghost_size", v) for v in [*NO_INTEGERS, 0, -1]),
    *((NORMS["BatchRenorm1d"], n, v) for n in ("r_max", "d_max") for v in [*NO_NUMBERS, None]),
    *((LINEAR, n, v) for n in ("in_features", "out_features") for v in [*NO_INTEGERS, -1]),
    *((kind, "bias", v) for kind in (LINEAR, CONV) for v in NO_BOOLS),
    *((CONV, n, v) for n in ("in_channels", "out_channels", "groups") for v in [*NO_INTEGERS, 0]),
    *((made_with(npbn.Flatten), n, v) for n in ("start_dim", "end_dim") for v in NO_INTEGERS),
    *((made_with(npbn.MaxPool2d, kernel_size=2), "ceil_mode", v) for v in NO_BOOLS),
    *((made_with(npbn.AvgPool2d, kernel_size=2), "ceil_mode", v) for v in NO_BOOLS),
    *((made_with(npbn.AvgPool2d, kernel_size=2), "count_include_pad", v) for v in NO_BOOLS),
    *((made_with(npbn.MLP), "use_batch_norm", v) for v in NO_BOOLS),
    *((made_with(npbn.CNN), "use_batch_norm", v) for v in NO_BOOLS),
    *((made_with(npbn.CrossEntropyLoss), "ignore_index", v) for v in NO_INTEGERS),
    *((made_with(npbn.CrossEntropyLoss), "label_smoothing", v) for v in [*NO_NUMBERS, None]),
    *((made_with(npbn.Parameter, data=np.ones(2)), "requires_grad", v) for v in NO_BOOLS),
    *((CONV, n, True) for n in ("kernel_size", "stride", "padding", "dilation")),
    *((made_with(npbn.MaxPool2d, kernel_size=2), "stride", v) for v in ["2", 2.0, True, (1, 2, 3)]),
    *((made_with(npbn.AvgPool2d, kernel_size=2), "divisor_override", v) for v in ["2", 0, True]),
    *((made_with(npbn.AdaptiveAvgPool2d, output_size=2), "output_size", v) for v in ["2", True]),
    *((made_with(npbn.Dropout), "p", v) for v in ["0.5", None, True, 1.5, -0.5]),
    *((LOADER, n, v) for n in ("shuffle", "drop_last") for v in NO_BOOLS),
    *((LOADER, "batch_size", v) for v in [*NO_INTEGERS, 0]),
    *((SGD, n, v) for n in ("lr", "momentum", "weight_decay") for v in [*NO_NUMBERS, None, -1.0]),
    *((SGD, "dampening", v) for v in [*NO_NUMBERS, None]),
    *((SGD, n, v) for n in ("nesterov", "maximize") for v in NO_BOOLS),
]


def mistake(make, name, value):
    """Return what is wrong with the error, or None."""
    try:
        made = make(**{name: value})
    except ValueError as error:
        said = str(error)
        right = name in said and (repr(value) in said or str(value) in said)
        return None if right else f"{name}={value!r}: {said}"
    return f"{name}={value!r} is accepted: {made!r}"


def test_the_error_names_the_argument_and_what_was_passed():
    for make in {make for make, _, _ in WRONG}:
        make()  # the usual arguments are in order
    assert [found for case in WRONG if (found := mistake(*case))] == []


def test_numbers_and_booleans_of_numpys_types_pass():
    bn = npbn.BatchNorm1d(
        np.int64(3), np.float32(1e-5), np.float64(0.1), np.True_, np.True_, bias=np.False_
    )
    assert bn(np.eye(3, dtype="f4")).shape == (3, 3)
    assert npbn.Linear(np.int32(3), np.uint8(2))(np.eye(3, dtype="f4")).shape == (3, 2)
    npbn.SGD(PARAMETERS, lr=np.float32(0.1), momentum=1)


@pytest.mark.parametrize("check", [check_integer, check_number])
def test_a_limit_is_in_the_message(check):
    check("Layer", "size", 2, 2)
    with pytest.raises(ValueError, match=r"^Layer: expected size to be .* of at least 2, got 1$"):
        check("Layer", "size", 1, 2)
    with pytest.raises(ValueError, match="of at least 2, got nan"):
        check("Layer", "size", float("nan"), 2)
    with pytest.raises(ValueError, match="True or False, got 'yes'"):
        check_bool("Layer", "switch", "yes")


@pytest.mark.parametrize(
    ("weight", "error"), [("abc", TypeError), ([1, 2], TypeError), (np.ones((2, 2)), ValueError)]
)
def test_class_weights_are_checked_when_the_loss_is_made(weight, error):
    with pytest.raises(error, match="CrossEntropyLoss: expected weight of"):
        npbn.CrossEntropyLoss(weight)


@pytest.mark.parametrize("make", [*NORMS.values(), LINEAR, CONV, npbn.MLP, npbn.CNN])
def test_a_dtype_that_is_not_float_is_refused(make):
    for dtype in ("abc", None, 5, int, "i4", np.complex64, [np.float32]):
        with pytest.raises(DtypeError, match="expected dtype float16, float32 or float64, got"):
            make(dtype=dtype)


@pytest.mark.parametrize("params", [5, None, "abc", [np.ones(2)], [{"params": 5}], [{}, 5]])
def test_what_are_no_parameters_is_refused(params):
    with pytest.raises((TypeError, ValueError), match=r"^SGD: expected"):
        npbn.SGD(params)


@pytest.mark.parametrize("state", ["m.npz", None, 5, [("weight", 1)], b"bytes"])
def test_a_state_that_is_no_mapping_is_refused(state):
    net = npbn.Linear(2, 2)
    before = net.state_dict()
    with pytest.raises(StateDictError, match=r"Linear.load_state_dict: expected a mapping .* got"):
        net.load_state_dict(state)
    assert all((array == before[key]).all() for key, array in net.state_dict().items())


@pytest.mark.parametrize("name", ["", "a.b", 5, None])
def test_a_buffer_needs_a_name(name):
    with pytest.raises(KeyError, match="a buffer's name"):
        npbn.Module().register_buffer(name, np.zeros(2))


@pytest.mark.parametrize("value", ["abc", [0.1], np.ones(2)])
def test_a_momentum_that_is_assigned_later_fails_before_anything_is_counted(value):
    bn = npbn.BatchNorm1d(2)
    bn.momentum = value
    before = bn.state_dict()
    with pytest.raises((TypeError, ValueError)):
        bn(np.eye(2, dtype="f4"))
    assert all((array == before[key]).all() for key, array in bn.state_dict().items())
