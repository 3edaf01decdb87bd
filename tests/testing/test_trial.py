"""A behaviour by one measure."""

from types import SimpleNamespace

import pytest
from hypothesis import strategies as st

from npbn.testing.trial import Trial


def test_an_interrupt_that_became_another_error_is_an_interrupt():
    """Ctrl-C where hypothesis starts a property was an AssertionError of hypothesis's own."""

    def interrupted():
        try:
            raise KeyboardInterrupt
        finally:
            raise AssertionError

    trial = Trial(SimpleNamespace(cases=st.builds(interrupted)), None, "correct")
    with pytest.raises(KeyboardInterrupt):
        trial.run(1, 0)
