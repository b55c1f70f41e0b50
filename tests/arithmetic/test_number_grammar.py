"""One number grammar: what it writes, every reader reads back equal."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathgrpo.answers import grade, parse_number
from mathgrpo.arithmetic import evaluate, number_text, numbers_in, plain_number

DECIMALS = st.builds(
    lambda whole, twos, fives: Fraction(whole, 2**twos * 5**fives),
    st.integers(-(10**12), 10**12), st.integers(0, 30), st.integers(0, 30),
)  # fmt: skip


@given(DECIMALS)
def test_every_number_that_is_written_is_read_back_equal(value: Fraction) -> None:
    text = number_text(value)
    assert plain_number(text) == parse_number(text) == value
    assert grade(text, text) == "correct"
    if len(text) < 15 and value >= 0:
        found = evaluate(text)
        assert found is not None and found.value == value and found.numbers == (value,)
        assert numbers_in(f"so {text} of them") == [value]


@given(st.integers(0, 10**14))
def test_grouped_digits_are_read_by_all(value: int) -> None:
    text = f"{value:,}"
    found = evaluate(text)
    assert plain_number(text) == parse_number(text) == value and numbers_in(text) == [value]
    assert found is not None and found.value == value


@pytest.mark.parametrize("text", ["1,20", "1,2345", "0,123", "1.", "1.2.3", "\u0663", "\u00b2", "1 2", "", ".", ","])
def test_what_the_grammar_does_not_write_is_no_number(text: str) -> None:
    assert plain_number(text) is None and evaluate(text) is None


@given(st.integers(1, 10**6), st.sampled_from([3, 7, 11, 13]))
def test_what_never_ends_is_not_written(numerator: int, prime: int) -> None:
    value = Fraction(numerator * prime + 1, prime)
    with pytest.raises(ValueError, match="no finite decimal form"):
        number_text(value)
