"""What a BatchNorm should do: a list of behaviours, each with the cases that try it."""

from npbn.testing.behaviours import accuracy, basics, gradients, memory, odd, sizes, steps
from npbn.testing.behaviours.behaviour import Behaviour

BEHAVIOURS: tuple[Behaviour, ...] = (
    *basics.BEHAVIOURS,
    *gradients.BEHAVIOURS,
    *steps.BEHAVIOURS,
    *sizes.BEHAVIOURS,
    *accuracy.BEHAVIOURS,
    *memory.BEHAVIOURS,
    *odd.BEHAVIOURS,
)

__all__ = ["BEHAVIOURS", "Behaviour"]
