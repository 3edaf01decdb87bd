"""Text of unknown origin: printable, short, and made in no time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npbn.io.quoting import printable, quoted

ANY = st.text(st.characters())  # lone surrogates too


@given(ANY)
def test_a_text_is_printable_and_can_be_encoded(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * 80 + 3
    shown.encode()
    if text.isprintable() and len(text) <= 80:
        assert shown == text


@given(st.recursive(ANY | st.binary() | st.integers() | st.none() | st.floats(), st.lists))
def test_the_repr_of_anything_is_too(value):
    shown = quoted(value)
    assert shown.isprintable()
    assert len(shown) <= 1200
    shown.encode()


@pytest.mark.parametrize("size", [10**5, 10**6])
def test_what_is_long_is_cut(size):
    assert len(printable("k" * size)) < 100
    assert len(printable("\x1b" * size)) < 400
    assert len(quoted("k" * size)) < 100
    assert len(quoted([["k" * size] * size] * 3)) < 300
    assert len(quoted({"k" * size: 1})) < 300
    assert quoted(10**5000) in ("a int",) or len(quoted(10**5000)) < 100


def test_a_list_that_unfolds_endlessly():
    value = []
    for _ in range(200):
        value = [value, value]
    assert len(quoted(value)) < 300
