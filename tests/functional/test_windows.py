"""Windows along an axis, against their definition position by position."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npbn.errors import ShapeError
from npbn.functional.windows import pair, windows

ARGUMENTS = st.tuples(
    st.integers(1, 12),  # size
    st.integers(1, 5),  # kernel
    st.integers(1, 5),  # stride
    st.integers(1, 4),  # dilation
    st.integers(0, 4),  # before
    st.integers(0, 4),  # after
)


def count_by_definition(size, kernel, stride, dilation, before, after, ceil_mode):
    """Place windows until none fits, the last by less than a stride with ceil_mode."""
    extent, total, count = dilation * (kernel - 1) + 1, before + size + after, 0
    while (
        count * stride + extent < total + stride and count * stride < before + size
        if ceil_mode
        else count * stride + extent <= total
    ):
        count += 1
    return count


@given(ARGUMENTS, st.booleans())
@example((1, 2, 2, 1, 0, 0), True)  # larger than the input, and yet one
@example((2, 2, 3, 1, 1, 1), True)  # a last one would begin in the padding behind
@example((2, 2, 1, 3, 1, 1), False)  # no tap inside
def test_taps_are_where_the_definition_has_them(arguments, ceil_mode):
    size, kernel, stride, dilation, before, after = arguments
    if ceil_mode:  # pooling, whose padding is at most half the kernel
        before, after = (padding % (kernel // 2 + 1) for padding in (before, after))
        arguments = (size, kernel, stride, dilation, before, after)
    expected = count_by_definition(*arguments, ceil_mode)
    if expected == 0:
        with pytest.raises(ShapeError) as caught:
            windows("Pool", *arguments, ceil_mode)
        message, extent = str(caught.value), dilation * (kernel - 1) + 1
        assert message.startswith("Pool: ")
        assert f"extent {extent} " in message
        assert f"got {size} with padding {before} and {after}" in message
        return
    placed = windows("Pool", *arguments, ceil_mode)
    assert placed == (*arguments, expected)
    assert placed.extent == dilation * (kernel - 1) + 1
    for i in range(kernel):
        outputs, inputs = placed.tap(i)
        at = {o: o * stride + i * dilation - before for o in range(expected)}
        inside = {o: position for o, position in at.items() if 0 <= position < size}
        assert list(range(expected)[outputs]) == list(inside)
        assert list(range(size)[inputs]) == list(inside.values())


@pytest.mark.parametrize(("value", "expected"), [(2, (2, 2)), ((1, 3), (1, 3)), ([4, 1], (4, 1))])
def test_a_pair_is_given_for_both_or_for_each(value, expected):
    assert pair("Pool", "stride", value, 1) == expected


@pytest.mark.parametrize("value", [0, -1, (1, 0), (1,), (1, 2, 3), 2.0, "2", None])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="Pool: expected stride to be an int or two") as caught:
        pair("Pool", "stride", value, 1)
    assert "at least 1" in str(caught.value)
    assert repr(value) in str(caught.value)
