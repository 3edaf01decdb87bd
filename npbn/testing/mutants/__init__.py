"""BatchNorms that each have one mistake, of the kinds found in practice.

The conformance suite has to fail every one of :data:`MUTANTS`.
Each is a class of the plain protocol (:func:`npbn.testing.protocol.class_implementation`) and
overrides the least it can of :class:`~npbn.testing.textbook.TextbookBatchNorm`, which is right.
``caught_by`` names a behaviour that it fails; it may fail others too.
"""

from npbn.testing.mutants import (
    backward,
    counting,
    dtypes,
    evaluation,
    forward,
    memory,
    parameters,
    running,
    sharing,
    sizes,
    steps,
)
from npbn.testing.textbook import TextbookBatchNorm

__all__ = ["MUTANTS", "TextbookBatchNorm"]

MODULES = (
    *(forward, evaluation, running, counting, backward, parameters),
    *(dtypes, memory, sizes, steps, sharing),
)
# Every class that the modules define, in their order.
MUTANTS: tuple[type[TextbookBatchNorm], ...] = tuple(
    value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type) and value.__module__ == module.__name__
)
