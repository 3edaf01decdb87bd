"""An importable suite that checks any BatchNorm: oracle, cases, tolerances, conformance.

It needs hypothesis (``pip install 'npbn[testing]'``); ``import npbn`` never loads it.
"""

from npbn.testing.case import Case, Setup, Step
from npbn.testing.conformance import check_batch_norm
from npbn.testing.protocol import (
    CAPABILITIES,
    BatchNorm,
    CannotConstructError,
    Implementation,
    class_implementation,
    function_implementation,
    npbn_implementation,
)
from npbn.testing.report import BehaviourResult, ConformanceReport

__all__ = [
    "CAPABILITIES",
    "BatchNorm",
    "BehaviourResult",
    "CannotConstructError",
    "Case",
    "ConformanceReport",
    "Implementation",
    "Setup",
    "Step",
    "check_batch_norm",
    "class_implementation",
    "function_implementation",
    "npbn_implementation",
]
