import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.answers import grade, parse_number
from mathgrpo.answers.numbers import read_quantity

READ = {
    "18": 18,
    "+7": 7,
    "-10": -10,
    "\u221210": -10,
    "-$10": -10,
    "$-10": -10,
    "$ 10": 10,
    "-\\$10": -10,
    "£5": 5,
    "18€": 18,
    "1,200": 1200,
    "1,234,567.50": Fraction(2469135, 2),
    "18.": 18,
    "18.00": 18,
    "$18.00.": 18,
    ".5": Fraction(1, 2),
    "007": 7,
    "1/2": Fraction(1, 2),
    "-3/4": Fraction(-3, 4),
    "5 1/2": Fraction(11, 2),
    "-5 1/2 cups": Fraction(-11, 2),
    "6/4": Fraction(3, 2),
    "1e3": 1000,
    "2.5E-1": Fraction(1, 4),
    "50%": 50,
    "50.0\\%": 50,
    "50 percent": 50,
    "18 eggs": 18,
    "18 eggs.": 18,
    "5 km/h": 5,
    "5km": 5,
    "$18 per day": 18,
    "5 m^2": 5,
    "90^\\circ": 90,
    "10 a.m.": 10,
    "\\$18": 18,
    "$18$": 18,
    "$$18$$": 18,
    "\\(18\\)": 18,
    "**18**": 18,
    "`18`": 18,
    "**$18**": 18,
    "\\boxed{18}": 18,
    "$\\boxed{1{,}200}$.": 1200,
    "10,\\!000": 10000,
    "1\\,200": 1200,
    "\\text{18 eggs}": 18,
    "5\\text{ cm}": 5,
    "\\frac{1}{2}": Fraction(1, 2),
    "-\\dfrac{3}{4}": Fraction(-3, 4),
    "\\frac12": Fraction(1, 2),
    "5\\frac{1}{2}": Fraction(11, 2),
    "x = 5": 5,
    " 18 \n": 18,
    "0": 0,
    "-0": 0,
    "- 5": -5,
    "\u20135": -5,
    "minus 7": -7,
    "18 thousand": 18000,
    "1.26 thousand": 1260,
    "2 dozen": 24,
    "3 halves": Fraction(3, 2),
    "1260 hundredths": Fraction(63, 5),
    "2 lakh": 200_000,
    "10^3": 1000,
    "1.26\\times10^3": 1260,
    "\\frac{-1}{3}": Fraction(-1, 3),
    "\\cfrac{1}{3}": Fraction(1, 3),
    "\\frac {1}{3}": Fraction(1, 3),
    "{1\\over 2}": Fraction(1, 2),
    "0.\\overline{3}": Fraction(1, 3),
    "11,\\! 111": 11111,
    "864\\mbox{ inches}^2": 864,
    "½": Fraction(1, 2),
    "2¾": Fraction(11, 4),
    "90°": 90,
    "USD 1260": 1260,
    "7 (peaches)": 7,
}

NOT_READ = [
    "",
    " ",
    ".",
    "-",
    "$",
    "%",
    "1,20",
    "12,00",
    "1,2000",
    "0,200",
    "1,200,3",
    "1.200,50",
    "1 200",
    "18 or 19",
    "17 18 19",
    "18, 19",
    "17,18,19",
    "18-19",
    "18:00",
    "(16-3-4)*2",
    "9*2=18",
    "8-3",
    "9**9**9",
    "2^10",
    "5!",
    "36/2",
    "18/1",
    "1/0",
    "5 3/2",
    "5 0/2",
    "--5",
    "-$-5",
    "+-5",
    "5x",
    "5i",
    "18k",
    "5 x 2",
    "\u0661\u0668",
    "\uff11\uff18",
    "²",
    "1²",
    "१८",
    "inf",
    "-inf",
    "nan",
    "Infinity",
    "1_8",
    "0x12",
    "1e1000",
    "1e",
    "e5",
    "18 or nineteen",
    "18 is wrong",
    "not 18",
    "18 and a half",
    "3 squared",
    "x^2=1",
    "<answer>18",
    "(18)",
    "18 (about)",
    "\\frac{1}{0}",
    "\\frac{1}{2^{98}}",
    "\\sqrt{4}",
    "eighteen",
    "18🎉",
    "18\n19",
    "18 " + "very " * 30 + "large eggs",
    "18\x00",
]


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_one_number_is_read_exactly(text: str, value: Fraction) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", NOT_READ)
def test_anything_else_is_not_a_number(text: str) -> None:
    assert parse_number(text) is None


def test_unit_and_currency_are_kept() -> None:
    assert [read_quantity(text).unit for text in ("18", "$18", "50 percent", "5 km/h")] == ["", "dollar", "%", "km/h"]


@pytest.mark.parametrize(
    "text", ["9" * 10**6, "1," * 500_000, " " * 10**6 + "7", "-" * 10**6, "1e" + "9" * 10**6, "{" * 10**6]
)
def test_a_million_characters_cost_nothing(text: str) -> None:
    start = time.perf_counter()
    parse_number(text)
    assert time.perf_counter() - start < 2.0


def test_longest_numbers_are_read_and_longer_ones_are_not() -> None:
    assert parse_number("9" * 600) == 10**600 - 1
    assert parse_number("9" * 601) is None
    assert grade("9" * 5000, "18") == "refused"


@given(st.integers(-(10**30), 10**30))
def test_every_integer_is_right_in_each_way_of_writing_it(n: int) -> None:
    for text in (f"{n}", f"{n:,}", f"{n}.", f"{n}.00", f"{n} eggs", f"${n}", f"{n:+}", f"\\boxed{{{n}}}", f" {n}\n"):
        assert grade(text, str(n)) == grade(text, f"{n:,}") == "correct"
    assert grade(str(n + 1), str(n)) == grade(str(-n - 1), str(n)) == "wrong"


@given(st.decimals(-(10**9), 10**9, places=4))
def test_every_decimal_is_right_against_itself(n: Decimal) -> None:
    assert grade(f"{n:f}", f"{n:f}") == grade(f"{n:,f}", f"{n:f}") == "correct"
    assert parse_number(f"{n:f}") == Fraction(n)


@settings(max_examples=300)
@given(st.text(alphabet="0123456789.,-+/$% eE\\{}frac\u2212", max_size=12))
def test_what_is_read_has_only_ascii_digits_and_one_value(text: str) -> None:
    value = parse_number(text)
    assert value is None or (any(c in "0123456789" for c in text) and parse_number(f" {text} ") == value)
