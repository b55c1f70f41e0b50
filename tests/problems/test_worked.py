from fractions import Fraction

import pytest

from mathgrpo.arithmetic import Operation, number_text
from mathgrpo.problems.worked import clean_answer, steps_text, worked_steps


def lines(solution: str, answer: str) -> list[str] | None:
    steps = worked_steps(solution, answer)
    return None if steps is None else [str(step) for step in steps]


def test_prose_becomes_two_operand_steps() -> None:
    prose = "James starts with 2 * £100 = £200.\nHe spends 9 books * £10 = £90.\nHe has £200 - £90 = £110.\n#### 110"
    assert lines(prose, "110") == ["2*100=200", "9*10=90", "200-90=110"]


def test_unit_slashes_are_no_divisions() -> None:
    assert lines("180 carrot / 15 carrot/minute = 12 minutes", "12") == ["180/15=12"]
    assert lines("64 customers/hour * 8 hours/day = 512 customers/day", "512") == ["64*8=512"]


def test_sums_of_several_terms_are_split_products_first() -> None:
    assert lines("In all 2 * 3 + 4 + 10 / 5 = 12", "12") == ["2*3=6", "10/5=2", "6+4=10", "10+2=12"]


def test_a_number_with_words_before_it_starts_the_expression_anew() -> None:
    assert lines("On day 2 he reads 3 + 4 = 7 pages", "7") == ["3+4=7"]


def test_an_equation_with_an_unknown_is_passed_over() -> None:
    assert lines("75 + T = 220\nT = 220 - 75 = 145", "145") == ["220-75=145"]


def test_repeated_steps_are_kept_once() -> None:
    assert lines("3 + 4 = 7\nagain 3 + 4 = 7\n7 * 2 = 14", "14") == ["3+4=7", "7*2=14"]


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("0.34*60 = 20", "20"),  # rounded: 20.4
        ("3 + 4 = 7", "8"),  # the last result is not the answer
        ("The answer is 7.", "7"),  # no arithmetic at all
        ("50% * 50% = 25%", "25"),  # percentages multiply otherwise
        ("2 * (3 + 4) = 14", "14"),  # brackets
        ("7 / 0 = 7", "7"),
    ],
)
def test_what_does_not_hold_is_refused(solution: str, answer: str) -> None:
    assert worked_steps(solution, answer) is None


def test_answers_are_plain_numbers() -> None:
    assert [clean_answer(a) for a in ("36.0", "1,236", "-4", "2.50", "abc", "1/3")] == [
        "36",
        "1236",
        "-4",
        "2.5",
        None,
        None,
    ]


def test_decimal_text_refuses_what_never_ends() -> None:
    assert number_text(Fraction(7, 8)) == "0.875"
    with pytest.raises(ValueError):
        number_text(Fraction(1, 3))


def test_steps_text_has_one_step_a_line() -> None:
    assert (
        steps_text((Operation(Fraction(1), "+", Fraction(2)), Operation(Fraction(3), "*", Fraction(2))))
        == "1+2=3\n3*2=6"
    )
