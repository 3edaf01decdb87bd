"""Outputs, options and running statistics, on small batches."""

from typing import Any

import numpy as np

from npbn.testing.behaviours.behaviour import BOTH, EVAL, FORWARD, Behaviour
from npbn.testing.names import RUNNING, STATE
from npbn.testing.strategies import cases, held

NEITHER = (False, False)  # neither weight nor bias
SEVERAL_EPS = held(0.1, 1.0, 10.0)


def _forward(name: str, *needs: str, also: bool = True, **options: Any) -> Behaviour:
    drawn = cases(**{"backward": False, **options})
    return Behaviour(name, drawn, needs, FORWARD, STATE if also else ())


def _running(name: str, *needs: str, also: bool = True, **options: Any) -> Behaviour:
    needs = ("training", "running_statistics", *needs)
    # With backward: there are frameworks that move the statistics there.
    return Behaviour(name, cases(**options), needs, RUNNING, STATE if also else ())


# The first four look at their subject alone: what one of them finds wrong is not reported again.
BEHAVIOURS = (
    _forward("output in training", "training", also=False),
    _forward("output in evaluation", "evaluation", also=False, modes=EVAL),
    _running("running statistics", also=False),
    Behaviour(
        "num_batches_tracked",
        cases(modes=((True,), (False,), (True, False, True)), momenta=held(0.1, 0.0)),
        ("training", "counter"),
        ("num_batches_tracked",),
        (),
    ),
    _forward(
        "eps is added to the variance, under the root", "training", eps=SEVERAL_EPS, scales=(1.0,)
    ),
    _forward("eps in evaluation", "evaluation", modes=EVAL, eps=SEVERAL_EPS, scales=(1.0,)),
    _forward("without weight, without bias", "no_affine", modes=BOTH, affine=(NEITHER,)),
    _forward("weight without bias", "weight_alone", modes=BOTH, affine=((True, False),)),
    _forward("bias without weight", "bias_alone", modes=BOTH, affine=((False, True),)),
    Behaviour("weights of 0", cases(modes=BOTH, zero_weights=True), ()),
    _forward(
        "without running statistics the batch normalises",
        "training",
        "untracked",
        modes=BOTH,
        tracked=(False,),
    ),
    _running("running statistics in float64", "float64", dtype=np.float64, ratios=(0.0, 10.0, 1e6)),
    _running("evaluation leaves the running statistics", "evaluation", modes=EVAL),
    _running("momentum 0, 1 and outside", momenta=(0.0, 1.0, -0.5, 1.5)),
    _running(
        "momentum None averages all batches",
        "momentum_none",
        momenta=(None,),
        counts=(0, 1, 7),
        modes=((True, True),),
    ),
    Behaviour(
        "eps and momentum are held in float64",
        cases(dtype=np.float64, eps=(1e-5, 1e-3), momenta=(0.1, 0.3), scales=(0.1,), modes=BOTH),
        ("float64", "double_scalars"),
    ),
)
