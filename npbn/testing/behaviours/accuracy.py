"""Ill-conditioned inputs: here the contract is stricter than straightforward arithmetic."""

import numpy as np
from hypothesis import strategies as st

from npbn.testing import odd_values, strategies
from npbn.testing.behaviours.behaviour import BOTH, FORWARD, Behaviour
from npbn.testing.names import RUNNING
from npbn.testing.strategies import cases, held

LARGE = st.sampled_from([(1000, 3), (4099, 2), (20_000, 1), (257, 4, 9)])
SMALL = st.sampled_from([(6, 2), (4, 3), (5, 9)])

BEHAVIOURS = (
    Behaviour(
        "mean up to 1e4 standard deviations",
        cases(ratios=(1e2, 1e3, 1e4), scales=(1.0, 100.0), eps=held(1e-5)),
        ("training",),
    ),
    Behaviour(
        "mean up to 1e6 standard deviations",
        cases(ratios=(1e4, 1e5, 1e6), scales=(1.0, 100.0), modes=BOTH, backward=False),
        (),
        (*FORWARD, *RUNNING),
        contract_only=True,
    ),
    Behaviour(
        "many values a channel",
        cases(shape=LARGE, values=strategies.trending, modes=BOTH),
        (),
        share=0.2,
    ),
    Behaviour(
        "100,000 samples",
        cases(shape=st.just((100_000, 1)), values=strategies.trending),
        ("training",),
        share=0.02,
    ),
    Behaviour(
        "tiny variance, eps decides",
        cases(scales=(1e-3, 1e-2), eps=held(1e-5, 1e-3)),
        ("training",),
    ),
    Behaviour(
        "constant channels give the bias",
        cases(values=strategies.constant, ratios=(0.0,), scales=(1.0, 1e30), backward=False),
        check=odd_values.constant_channels,
        contract_only=True,
    ),
    Behaviour(
        "magnitudes from 1e-40 to 1e37",
        cases(values=strategies.alternating, ratios=(0.0,), scales=(1.0,), backward=False),
        ("training",),
        FORWARD,
        contract_only=True,
    ),
    Behaviour(
        "one enormous outlier",
        cases(values=strategies.outlier, ratios=(0.0,), scales=(1.0,), backward=False),
        ("training",),
        FORWARD,
        contract_only=True,
    ),
    Behaviour(
        "float16 input, computed in float32",
        cases(x_dtype=np.float16, shape=SMALL, ratios=(0.0, 4.0), scales=(1.0, 30.0), modes=BOTH),
        ("float16",),
    ),
    Behaviour(
        "float16, sums beyond 65504",
        cases(
            x_dtype=np.float16, shape=st.just((3000, 1)), ratios=(4.0,), scales=(30.0,), modes=BOTH
        ),
        ("float16",),
        share=0.2,
    ),
    Behaviour(
        "float16, the gradient in another layout",
        cases(
            x_dtype=np.float16,
            shape=strategies.shapes((3,), least=3),
            layouts=("contiguous", "channels last"),
        ),
        ("training", "float16", "layouts"),
        rank=3,
    ),
    Behaviour(
        "float64 throughout",
        cases(dtype=np.float64, ratios=(0.0, 10.0, 1e6), modes=BOTH),
        ("float64",),
    ),
)
