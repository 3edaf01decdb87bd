"""Ownership of memory: inputs stay unchanged, results belong to the caller."""

from npbn.testing import care
from npbn.testing.behaviours.basics import NEITHER
from npbn.testing.behaviours.behaviour import BOTH, Behaviour
from npbn.testing.strategies import cases

SEVERAL = ((True, True), (True, False), (False, False))

BEHAVIOURS = (
    Behaviour("inputs are left unchanged", cases(modes=BOTH), (), check=care.inputs_unchanged),
    Behaviour("results are the caller's", cases(modes=SEVERAL), (), check=care.results_kept),
    Behaviour(
        "an output that is overwritten does not spoil backward",
        cases(affine=((True, True), NEITHER)),
        ("training", "backward", "no_affine"),
        check=care.output_overwritten,
    ),
)
