"""A behaviour: one thing that a BatchNorm should do, with the cases that test it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from npbn.testing.case import Case
from npbn.testing.compare import Errors, follow, no_errors
from npbn.testing.names import PASSES, STATE
from npbn.testing.protocol import Implementation

FORWARD = ("y",)
TRAIN, EVAL = ((True,),), ((False,),)
BOTH = (*TRAIN, *EVAL)
MODES = {"training", "evaluation"}  # every behaviour needs one of these


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
        Its subject: the results that are compared with the oracle, when `check` is not given.
    also : tuple of str
        What is checked besides the subject, unless an earlier behaviour has found it wrong.
    check : callable or None
        (implementation, case) to None; raises :class:`npbn.testing.compare.ConformanceError`.
    contract_only : bool
        Whether it belongs to npbn's accuracy contract alone: straightforward arithmetic is
        allowed to overflow, or to lose all digits, on such input.
    share : float
        Of the examples asked for: less than 1 where an example is long.
    rank : int
        The lowest rank of input that the cases have; higher ones are allowed too.
    """

    name: str
    cases: st.SearchStrategy[Case]
    needs: tuple[str, ...] = ("training",)
    results: tuple[str, ...] = PASSES
    also: tuple[str, ...] = STATE
    check: Callable[[Implementation, Case], None] | None = field(default=None, repr=False)
    contract_only: bool = False
    share: float = 1.0
    rank: int = 2

    def lacks(self, implementation: Implementation) -> list[str]:
        """Return what the implementation does not support and the behaviour needs."""
        lacking = sorted(set(self.needs) & implementation.unsupported)
        if implementation.unsupported >= MODES:
            lacking = sorted({*lacking, *MODES})
        return lacking if implementation.takes(self.rank) else [*lacking, f"rank {self.rank} to 5"]

    def run(
        self,
        implementation: Implementation,
        case: Case,
        measure: str,
        known: frozenset[str] = frozenset(),
    ) -> Errors:
        """Try one case; raise ConformanceError if it goes wrong.

        `known` has the results that are known to be wrong; they are checked only as the subject.
        """
        case = implementation.adapt(case)
        if self.check is not None:
            self.check(implementation, case)
            return no_errors()
        also = [name for name in self.also if name not in known and name not in self.results]
        return follow(implementation, case, (*self.results, *also), measure)
