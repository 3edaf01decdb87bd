"""Batches that have to be refused, that are empty, or that hold NaN and infinity."""

from hypothesis import strategies as st

from npbn.testing import odd_values
from npbn.testing.behaviours.behaviour import BOTH, Behaviour
from npbn.testing.strategies import cases

ONE_VALUE = cases(shape=st.sampled_from([(1, 1), (1, 3)]))
MIXED_CHANNELS = cases(shape=st.sampled_from([(4, 2), (5, 3), (2, 2, 3)]), modes=BOTH)

BEHAVIOURS = (
    Behaviour(
        "one value a channel is refused",
        ONE_VALUE,
        ("training", "errors"),
        check=odd_values.refuses_one_value,
    ),
    Behaviour(
        "refusals change nothing",
        ONE_VALUE,
        ("training", "errors", "clean_errors", "counter", "running_statistics"),
        check=odd_values.refusal_changes_nothing,
    ),
    Behaviour(
        "an empty batch changes no statistics",
        cases(shape=st.sampled_from([(0, 1), (0, 3)])),
        ("training", "empty"),
        check=odd_values.empty_batch,
    ),
    Behaviour(
        "samples without positions change no statistics",
        cases(shape=st.sampled_from([(2, 3, 0), (1, 1, 0)])),
        ("training", "empty"),
        check=odd_values.empty_batch,
        rank=3,
    ),
    Behaviour(
        "NaN and infinity reach the output",
        MIXED_CHANNELS,
        ("non_finite",),
        check=odd_values.reach_the_output,
    ),
    Behaviour(
        "NaN and infinity reach gradients and statistics",
        MIXED_CHANNELS,
        ("non_finite",),
        check=odd_values.reach_the_rest,
    ),
    Behaviour(
        "NaN in grad_output reaches the gradients",
        MIXED_CHANNELS,
        ("backward", "non_finite"),
        check=odd_values.reach_through_backward,
    ),
)
