"""Gradients of the input, the weight and the bias, on small batches."""

from typing import Any

from npbn.testing.behaviours.basics import NEITHER, SEVERAL_EPS
from npbn.testing.behaviours.behaviour import BOTH, EVAL, TRAIN, Behaviour
from npbn.testing.names import GRADIENTS
from npbn.testing.strategies import cases

TRAINING_PASS = ("training", "backward")


def _gradient(name: str, result: str, modes: Any, *needs: str) -> Behaviour:
    drawn = cases(modes=modes, scales=(1.0, 0.01))
    return Behaviour(name, drawn, ("backward", *needs), (result,))


BEHAVIOURS = (
    *(
        _gradient(f"gradient of the {what}, training", f"grad_{what}", TRAIN, "training")
        for what in ("input", "weight", "bias")
    ),
    *(
        _gradient(
            f"gradient of the {what}, evaluation",
            f"grad_{what}",
            EVAL,
            "evaluation",
            "eval_backward",
        )
        for what in ("input", "weight", "bias")
    ),
    Behaviour(
        "gradients without weight and bias",
        cases(affine=(NEITHER,), eps=(2.0**-17, 1.0)),
        (*TRAINING_PASS, "no_affine"),
        GRADIENTS,
    ),
    Behaviour(
        "gradients without running statistics",
        cases(tracked=(False,), modes=BOTH),
        (*TRAINING_PASS, "untracked"),
        GRADIENTS,
    ),
    Behaviour(
        "eps in backward",
        cases(eps=SEVERAL_EPS, scales=(1.0, 0.1)),
        TRAINING_PASS,
        GRADIENTS,
    ),
)
