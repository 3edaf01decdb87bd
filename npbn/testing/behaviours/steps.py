"""Several steps of one layer, and several layers."""

from hypothesis import strategies as st

from npbn.testing import care
from npbn.testing.behaviours.behaviour import Behaviour
from npbn.testing.strategies import cases, shapes

THREE = ((True, True, True),)
MIXED = ((True, True, False), (True, False, True, True), (False, True, False))

BEHAVIOURS = (
    Behaviour(
        "several steps, switching modes",
        cases(modes=MIXED),
        ("training", "evaluation", "running_statistics"),
    ),
    Behaviour("three training steps", cases(modes=THREE), ("training",)),
    Behaviour(
        "evaluation twice",
        cases(modes=((False, False), (False, False, False))),
        ("evaluation",),
    ),
    Behaviour(
        "another shape at every step",
        cases(ranks=(2, 3, 4), modes=(*THREE, *MIXED), varying=True),
        ("training", "evaluation"),
    ),
    Behaviour(
        "other weights and statistics between steps",
        cases(modes=((False, False), (True, True), (True, False, False)), loads=True),
        ("training", "evaluation", "reload"),
    ),
    Behaviour(
        "two layers do not share",
        cases(modes=((True, True),)),
        ("training",),
        check=care.two_layers,
    ),
    Behaviour(
        "layers of other shapes do not share",
        cases(modes=((True, True),), shape=shapes((2, 3)), varying=True),
        ("training",),
        check=care.two_layers,
    ),
    Behaviour(
        "two threads, a layer in each",
        cases(shape=st.sampled_from([(64, 33), (9, 5, 49)]), modes=((True, True, False),)),
        ("training", "threads"),
        check=care.two_threads,
        share=0.1,
    ),
    Behaviour(
        "backward twice is refused or gives the same",
        cases(),
        ("training", "backward"),
        check=care.backward_twice,
    ),
)
