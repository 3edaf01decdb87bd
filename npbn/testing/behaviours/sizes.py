"""Ranks, sizes around the widths of registers and blocks, and memory layouts."""

from hypothesis import strategies as st

from npbn.testing import strategies
from npbn.testing.behaviours.behaviour import BOTH, EVAL, FORWARD, Behaviour
from npbn.testing.layouts import LAYOUTS, VECTOR_LAYOUTS
from npbn.testing.strategies import cases

ORDERS = ("contiguous", "channels last", "Fortran order")


def _rank(rank: int, what: str) -> Behaviour:
    drawn = cases(shape=strategies.shapes((rank,), least=4), modes=BOTH)
    return Behaviour(f"rank {rank}: {what}", drawn, (f"rank{rank}",))


def _layouts(rank: int) -> Behaviour:
    drawn = cases(layouts=tuple(LAYOUTS), shape=strategies.shapes((rank,), least=3), modes=BOTH)
    return Behaviour(f"any memory layout, rank {rank} or higher", drawn, ("layouts",), rank=rank)


BEHAVIOURS = (
    _rank(3, "(N, C, L)"),
    _rank(4, "(N, C, H, W)"),
    _rank(5, "(N, C, D, H, W)"),
    Behaviour(
        "up to 70 channels and 300 samples",
        cases(shape=strategies.odd_sizes((2,)), values=strategies.trending, modes=BOTH),
        (),
    ),
    Behaviour(
        "up to 70 channels of 256 positions",
        cases(shape=strategies.odd_sizes((3, 4)), values=strategies.trending, modes=BOTH),
        (),
        rank=3,
        share=0.6,
    ),
    Behaviour(
        "one sample of several positions will do",
        cases(shape=st.sampled_from([(1, 2, 2), (1, 1, 5), (1, 3, 9)])),
        ("training",),
        rank=3,
    ),
    Behaviour(
        "one value a channel in evaluation",
        cases(shape=st.sampled_from([(1, 1), (1, 3), (1, 9, 1)]), modes=EVAL),
        ("evaluation",),
    ),
    Behaviour(
        "no value a channel in evaluation",
        cases(shape=st.sampled_from([(0, 1), (0, 3), (0, 3, 4)]), modes=EVAL, backward=False),
        ("evaluation", "empty"),
        FORWARD,
    ),
    Behaviour(
        "samples without positions in evaluation",
        cases(shape=st.sampled_from([(1, 2, 0), (4, 3, 0)]), modes=EVAL, backward=False),
        ("evaluation", "empty"),
        FORWARD,
        rank=3,
    ),
    *map(_layouts, (2, 3, 4)),
    Behaviour(
        "rank 4 in either order, the gradient in another",
        cases(layouts=ORDERS, shape=strategies.shapes((4,), least=6), modes=BOTH),
        ("layouts", "backward"),
        rank=4,
    ),
    Behaviour(
        "weights and statistics in any memory layout",
        cases(vector_layouts=VECTOR_LAYOUTS[1:], modes=((True, False), (False,))),
        ("vector_layouts",),
    ),
)
