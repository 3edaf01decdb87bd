"""BatchNorms that are each wrong in one way, as people really get them wrong.

A suite is worth what it fails: the conformance suite has to fail every one of :data:`MUTANTS`.
Each is a class of the plain protocol (:func:`npbn.testing.protocol.class_implementation`) and
overrides the least it can of :class:`~npbn.testing.textbook.TextbookBatchNorm`, which is right.
"""

from npbn.testing.mutants import backward, dtypes, forward, memory, running, sizes, steps
from npbn.testing.textbook import TextbookBatchNorm

__all__ = ["MUTANTS", "TextbookBatchNorm"]

# Every class that the modules define, in their order.
MUTANTS: tuple[type[TextbookBatchNorm], ...] = tuple(
    value
    for module in (forward, running, backward, dtypes, memory, sizes, steps)
    for value in vars(module).values()
    if isinstance(value, type) and value.__module__ == module.__name__
)
