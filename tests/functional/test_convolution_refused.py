"""Wrong arguments of conv2d are refused."""

import numpy as np
import pytest

from npbn.errors import DtypeError, ShapeError
from npbn.functional import conv2d

# -- arguments ----------------------------------------------------------------------------------

X, W = np.ones((2, 4, 5, 5)), np.ones((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("x", "weight", "bias", "options", "error", "fragments"),
    [
        (np.ones((5, 5)), W, None, {}, ShapeError, ["(N, 4, H, W)", "(4, H, W)", "(5, 5)"]),
        (X[None], W, None, {}, ShapeError, ["(N, 4, H, W)", "(1, 2, 4, 5, 5)"]),
        (X[:, :3], W, None, {}, ShapeError, ["(N, 4, H, W)", "(2, 3, 5, 5)"]),
        (X, W, None, {"groups": 2}, ShapeError, ["(N, 8, H, W)", "(2, 4, 5, 5)"]),
        (X[:, :, :0], W, None, {"padding": 3}, ShapeError, ["at least 1", "(2, 4, 0, 5)"]),
        (X[..., :0], W, None, {"padding": 3}, ShapeError, ["at least 1", "(2, 4, 5, 0)"]),
        (X[:, :, :2], W, None, {}, ShapeError, ["extent 3", "got 2"]),
        (X[..., :2], W, None, {}, ShapeError, ["extent 3", "got 2"]),
        (X, W, None, {"dilation": 3}, ShapeError, ["extent 7", "got 5"]),
        (X, W, None, {"dilation": (1, 4), "padding": 1}, ShapeError, ["extent 9", "1 and 1"]),
        (X, np.ones(4), None, {}, ShapeError, ["weight", "(O, C / groups, kh, kw)", "(4,)"]),
        (X, W[:, :, :0], None, {}, ShapeError, ["weight", "at least 1", "(6, 4, 0, 3)"]),
        (X, W[..., :0], None, {}, ShapeError, ["weight", "at least 1", "(6, 4, 3, 0)"]),
        (X, W[:0], None, {}, ShapeError, ["weight", "at least 1", "(0, 4, 3, 3)"]),
        (X, W, np.ones(4), {}, ShapeError, ["bias", "(6,)", "(4,)"]),
        (X, W, np.ones((6, 1)), {}, ShapeError, ["bias", "(6,)", "(6, 1)"]),
        (X.astype(int), W, None, {}, DtypeError, ["float", "int64"]),
        (X.astype("f4"), W, None, {}, DtypeError, ["float64", "float32"]),
        (X.astype("f2"), W.astype("f4"), None, {}, DtypeError, ["float32", "float16"]),
        (X, W.astype(int), None, {}, DtypeError, ["int64"]),
        (X, W, np.ones(6, "f4"), {}, DtypeError, ["bias", "float32"]),
        (X, W, None, {"stride": 0}, ValueError, ["stride", "got 0"]),
        (X, W, None, {"stride": (1, -1)}, ValueError, ["stride", "(1, -1)"]),
        (X, W, None, {"stride": (1, 1, 1)}, ValueError, ["stride", "(1, 1, 1)"]),
        (X, W, None, {"stride": 1.0}, ValueError, ["stride", "1.0"]),
        (X, W, None, {"dilation": 0}, ValueError, ["dilation", "got 0"]),
        (X, W, None, {"padding": -1}, ValueError, ["padding", "got -1"]),
        (X, W, None, {"padding": (0, -1)}, ValueError, ["padding", "(0, -1)"]),
        (X, W, None, {"padding": "full"}, ValueError, ["'same'", "'valid'", "'full'"]),
        (X, W, None, {"padding": "same", "stride": 2}, ValueError, ["stride 1", "(2, 2)"]),
        (X, W, None, {"padding": "same", "stride": (1, 2)}, ValueError, ["stride 1", "(1, 2)"]),
        (X, W, None, {"groups": 0}, ValueError, ["groups", "got 0"]),
        (X, W, None, {"groups": 4}, ValueError, ["groups", "6 outputs", "got 4"]),
        (X, W, None, {"groups": 1.0}, ValueError, ["groups", "1.0"]),
    ],
)
def test_wrong_arguments_are_refused(x, weight, bias, options, error, fragments):
    with pytest.raises(error) as caught:
        conv2d(x, weight, bias, **options)
    assert all(fragment in str(caught.value) for fragment in ["conv2d", *fragments])
