"""What a BatchNorm should do: a list of behaviours, each with the cases that try it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from npbn.testing import care, strategies
from npbn.testing.case import Case
from npbn.testing.compare import Errors, follow
from npbn.testing.protocol import Implementation
from npbn.testing.strategies import cases

FORWARD = ("y",)
RUNNING = ("running_mean", "running_var")
GRADIENTS = ("grad_input", "grad_weight", "grad_bias")
PASSES = (*FORWARD, *GRADIENTS)
EVERYTHING = (*PASSES, *RUNNING)
TRAIN, EVAL = ((True,),), ((False,),)
BOTH = (*TRAIN, *EVAL)
TWICE = ((True, True),)
NEITHER = (False, False)  # neither weight nor bias


@dataclass(frozen=True)
class Behaviour:
    """One thing that a BatchNorm should do.

    Attributes
    ----------
    name : str
        For the report.
    cases : strategy of Case
    needs : tuple of str
        Of :data:`npbn.testing.protocol.CAPABILITIES`, beside those every behaviour needs.
    results : tuple of str
        Which results are held against the oracle, when `check` is not given.
    check : callable or None
        (implementation, case) to None; raises :class:`npbn.testing.compare.ConformanceError`.
    contract_only : bool
        Whether it belongs to npbn's accuracy contract alone: straightforward arithmetic is
        allowed to overflow, or to lose all digits, on such input.
    share : float
        Of the examples asked for: less than 1 where an example is long.
    rank : int
        The lowest rank of input that the cases have; higher ones will do.
    """

    name: str
    cases: st.SearchStrategy[Case]
    needs: tuple[str, ...] = ("training",)
    results: tuple[str, ...] = EVERYTHING
    check: Callable[[Implementation, Case], None] | None = field(default=None, repr=False)
    contract_only: bool = False
    share: float = 1.0
    rank: int = 2

    def lacks(self, implementation: Implementation) -> list[str]:
        """Return what the implementation does not support and the behaviour needs."""
        lacking = sorted(set(self.needs) & implementation.unsupported)
        return lacking if implementation.takes(self.rank) else [*lacking, f"rank {self.rank} to 5"]

    def run(self, implementation: Implementation, case: Case, measure: str) -> Errors:
        """Try one case; raise ConformanceError if it goes wrong."""
        case = implementation.adapt(case)
        if self.check is not None:
            self.check(implementation, case)
            return Errors({}, {})
        return follow(implementation, case, self.results, measure)


def _forward(name: str, needs: tuple[str, ...] = ("training",), **options: Any) -> Behaviour:
    return Behaviour(name, cases(backward=False, **options), needs, FORWARD)


def _running(name: str, *needs: str, **options: Any) -> Behaviour:
    needs = ("training", "running_statistics", *needs)
    return Behaviour(name, cases(backward=False, **options), needs, RUNNING)


def _gradient(name: str, result: str, modes: Any, *needs: str) -> Behaviour:
    needs = ("backward", *needs)
    return Behaviour(name, cases(modes=modes, scales=(1.0, 0.01)), needs, (result,))


TRAINING_PASS = ("training", "backward")


def _ranks() -> list[Behaviour]:
    return [
        Behaviour(
            f"rank {rank}: {what}",
            cases(ranks=(rank,), shape=strategies.shapes((rank,), least=4), modes=BOTH),
            (f"rank{rank}",),
        )
        for rank, what in ((3, "(N, C, L)"), (4, "(N, C, H, W)"), (5, "(N, C, D, H, W)"))
    ]


def _accuracy() -> list[Behaviour]:
    """Return what needs digits; the contract has no mercy here."""
    large = st.sampled_from([(1000, 3), (4099, 2), (20000, 1)])
    forward = partial(cases, backward=False)
    return [
        Behaviour(
            "mean up to 10⁴ standard deviations",
            cases(ratios=(1e2, 1e3, 1e4), scales=(1.0, 100.0), eps=(1e-5,)),
            ("training",),
            PASSES,
        ),
        Behaviour(
            "mean up to 10⁶ standard deviations",
            forward(ratios=(1e4, 1e5, 1e6), scales=(1.0, 100.0), modes=BOTH),
            (),
            (*FORWARD, *RUNNING),
            contract_only=True,
        ),
        Behaviour("many values a channel", cases(shape=large, modes=BOTH), (), PASSES, share=0.2),
        Behaviour(
            "tiny variance, eps decides",
            cases(scales=(1e-3, 1e-2), eps=(1e-5, 1e-3)),
            ("training",),
            PASSES,
        ),
        Behaviour(
            "constant channels give the bias",
            forward(values=strategies.constant, ratios=(0.0,), scales=(1.0, 1e30)),
            check=care.constant_channels,
            contract_only=True,
        ),
        Behaviour(
            "magnitudes from 10⁻⁴⁰ to 10³⁷",
            forward(values=strategies.alternating, ratios=(0.0,), scales=(1.0,)),
            ("training",),
            contract_only=True,
        ),
        Behaviour(
            "one enormous outlier",
            forward(values=strategies.outlier, ratios=(0.0,), scales=(1.0,)),
            ("training",),
            contract_only=True,
        ),
        Behaviour(
            "float16 input, computed in float32",
            cases(
                x_dtype=np.float16,
                shape=st.sampled_from([(6, 2), (3000, 1), (4, 3)]),
                ratios=(0.0, 4.0),
                scales=(1.0, 30.0),
                modes=BOTH,
            ),
            ("float16",),
            PASSES,
        ),
        Behaviour(
            "float64 throughout",
            cases(dtype=np.float64, ratios=(0.0, 10.0, 1e6), modes=BOTH),
            ("float64",),
            PASSES,
        ),
    ]


def _care() -> list[Behaviour]:
    """Return what has to do with memory and errors rather than with numbers."""
    two_steps = (*TWICE, (True, False))
    passes = (*TRAINING_PASS, "running_statistics")
    return [
        Behaviour("inputs are left unchanged", cases(), passes, check=care.inputs_unchanged),
        Behaviour(
            "results are the caller's", cases(modes=two_steps), passes, check=care.results_kept
        ),
        Behaviour(
            "an output that is overwritten does not spoil backward",
            cases(affine=((True, True), NEITHER)),
            (*TRAINING_PASS, "no_affine"),
            check=care.output_overwritten,
        ),
        Behaviour("two layers do not share", cases(), passes, check=care.two_layers),
        Behaviour(
            "one value a channel is refused",
            cases(shape=st.sampled_from([(1, 1), (1, 3)])),
            ("training", "errors"),
            check=care.refuses_one_value,
        ),
        Behaviour(
            "refusals change nothing",
            cases(shape=st.sampled_from([(1, 1), (1, 3)])),
            ("training", "errors", "clean_errors", "counter", "running_statistics"),
            check=care.refusal_changes_nothing,
        ),
        Behaviour(
            "one sample of several positions will do",
            cases(shape=st.sampled_from([(1, 2, 2), (1, 1, 5)])),
            ("training",),
            PASSES,
            rank=3,
        ),
        Behaviour(
            "an empty batch changes no statistics",
            cases(shape=st.sampled_from([(0, 1), (0, 3)])),
            ("training", "empty"),
            (*FORWARD, *RUNNING, *GRADIENTS, "num_batches_tracked"),
        ),
        Behaviour(
            "NaN and infinity reach the output",
            cases(modes=BOTH, backward=False),
            ("training", "non_finite"),
            check=care.non_finite,
        ),
    ]


BEHAVIOURS: tuple[Behaviour, ...] = (
    _forward("output in training"),
    _forward("output in evaluation", ("evaluation",), modes=EVAL),
    _forward("eps is added to the variance, under the root", eps=(0.1, 1.0, 10.0), scales=(1.0,)),
    _forward("eps in evaluation", ("evaluation",), modes=EVAL, eps=(0.1, 1.0, 10.0), scales=(1.0,)),
    _forward(
        "without weight, without bias",
        ("no_affine",),
        modes=BOTH,
        affine=(NEITHER,),
    ),
    _forward(
        "weight without bias",
        ("weight_alone",),
        modes=BOTH,
        affine=((True, False),),
    ),
    _forward(
        "bias without weight",
        ("training", "bias_alone"),
        modes=BOTH,
        affine=((False, True),),
    ),
    _forward(
        "without running statistics the batch normalises",
        ("training", "untracked"),
        modes=BOTH,
        tracked=(False,),
    ),
    _running("running statistics"),
    _running("running statistics in float64", "float64", dtype=np.float64, ratios=(0.0, 10.0, 1e6)),
    _running("evaluation leaves the running statistics", modes=EVAL),
    _running("momentum 0, 1 and outside", momenta=(0.0, 1.0, -0.5, 1.5)),
    _running(
        "momentum None averages all batches",
        "momentum_none",
        momenta=(None,),
        counts=(0, 1, 7),
        modes=TWICE,
    ),
    Behaviour(
        "num_batches_tracked",
        cases(modes=((True,), (False,), (True, False, True)), momenta=(0.1, 0.0), backward=False),
        ("training", "counter"),
        ("num_batches_tracked",),
    ),
    _gradient("gradient of the input, training", "grad_input", TRAIN, "training"),
    _gradient("gradient of the weight, training", "grad_weight", TRAIN, "training"),
    _gradient("gradient of the bias, training", "grad_bias", TRAIN, "training"),
    _gradient(
        "gradient of the input, evaluation", "grad_input", EVAL, "evaluation", "eval_backward"
    ),
    _gradient(
        "gradient of the weight, evaluation", "grad_weight", EVAL, "evaluation", "eval_backward"
    ),
    _gradient("gradient of the bias, evaluation", "grad_bias", EVAL, "evaluation", "eval_backward"),
    Behaviour(
        "gradients without weight and bias",
        cases(affine=(NEITHER,), eps=(1e-5, 1.0)),
        (*TRAINING_PASS, "no_affine"),
        GRADIENTS,
    ),
    Behaviour(
        "gradients without running statistics",
        cases(tracked=(False,), modes=BOTH),
        ("training", "backward", "untracked"),
        GRADIENTS,
    ),
    Behaviour(
        "eps in backward",
        cases(eps=(0.1, 1.0, 10.0), scales=(1.0, 0.1)),
        TRAINING_PASS,
        GRADIENTS,
    ),
    Behaviour(
        "several steps, switching modes",
        cases(modes=((True, True, False), (True, False, True, True), (False, True, False))),
        ("training", "running_statistics"),
    ),
    *(
        Behaviour(
            f"any memory layout, rank {rank} or higher",
            cases(
                layouts=tuple(strategies.LAYOUTS),
                shape=strategies.shapes((rank,), least=3),
                modes=BOTH,
            ),
            ("layouts",),
            PASSES,
            rank=rank,
        )
        for rank in (2, 3)
    ),
    *_ranks(),
    *_accuracy(),
    *_care(),
)
