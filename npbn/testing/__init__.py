"""An importable suite that checks any BatchNorm: oracle, cases, tolerances, conformance.

The textbook, conventions, replay, mutants and the check of gradients need NumPy alone; the suite
draws its cases with hypothesis (``pip install 'npbn[testing]'``). ``import npbn`` loads none
of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from npbn.testing import conventions, oracle, tolerances
from npbn.testing.case import Case, Setup, Step
from npbn.testing.gradients import GradientError, check_gradients, numerical_gradient
from npbn.testing.npbn_modules import npbn_implementation
from npbn.testing.protocol import (
    CAPABILITIES,
    BatchNorm,
    CannotConstructError,
    Implementation,
    class_implementation,
    function_implementation,
)
from npbn.testing.report import BehaviourResult, ConformanceReport
from npbn.testing.worker_process import Command

if TYPE_CHECKING:
    from npbn.testing.conformance import Check, check_batch_norm, find_behaviours

__all__ = [
    "CAPABILITIES",
    "BatchNorm",
    "BehaviourResult",
    "CannotConstructError",
    "Case",
    "Check",
    "Command",
    "ConformanceReport",
    "GradientError",
    "Implementation",
    "Setup",
    "Step",
    "check_batch_norm",
    "check_gradients",
    "class_implementation",
    "conventions",
    "find_behaviours",
    "function_implementation",
    "npbn_implementation",
    "numerical_gradient",
    "oracle",
    "tolerances",
]
NEED_HYPOTHESIS = ("Check", "check_batch_norm", "find_behaviours")
MODULES = ("export", "mutants", "replay", "textbook")  # loaded when they are asked for


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"npbn.testing.{name}")
    if name not in NEED_HYPOTHESIS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import hypothesis  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"npbn.testing.{name} needs hypothesis: pip install 'npbn[testing]'"
        ) from error
    from npbn.testing import conformance

    return getattr(conformance, name)


def __dir__() -> list[str]:
    return sorted([*__all__, *MODULES])
