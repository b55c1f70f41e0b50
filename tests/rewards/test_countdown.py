"""Arithmetic without eval, and the Countdown constraint on good and hostile answers."""

import time
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.arithmetic import evaluate
from mathgrpo.formats import get_format
from mathgrpo.rewards import REWARDS, build_suite
from mathgrpo.rewards.catalogue.countdown import countdown_problem, read_numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(3 + 5) * 2 / 4", 4), ("3 × 5 − 7", 8), ("6 ÷ 4", Fraction(3, 2)), ("2 - 3 - 4", -5), ("8 / 4 / 2", 1),
        ("-3 + 5", 2), ("2 * -3", -6), ("$1,200.50", Fraction(2401, 2)), ("20% * 50", 10), (".5 * 4", 2),
        ("((((7))))", 7),
    ],
)  # fmt: skip
def test_expressions_have_their_exact_value(text: str, value: Fraction) -> None:
    found = evaluate(text)
    assert found is not None and found.value == value


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "9**9**9", "2^10", "1/0", "1/(2-2)", "3 5", "1+", "*2", "()", "(1", "1)", "1.5.2", "1,20", "abs(3)",
        "__import__('os').getpid()", "x",
        "1e9", "\u0663+1", "²", "9" * 16, "1+" * 400 + "1", "(" * 100 + "1" + ")" * 100,
        "--1", "+1", "1_000", "0x10", "5!", "3 % 2", "1;2", "1\n+\n1",
    ],
)  # fmt: skip
def test_everything_else_is_not_read(text: str) -> None:
    assert evaluate(text) is None


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="0123456789+-*/(). ", max_size=40))
def test_where_python_agrees_that_it_is_an_expression_the_value_is_pythons(text: str) -> None:
    found = evaluate(text)
    if found is None or "." in text or any(len(n) > 1 and n[0] == "0" for n in text.replace("(", " ").split()):
        return
    import ast

    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError:
        return
    assert found.value == _value(tree.body)


def _value(node: object) -> Fraction:
    """Return the value of a parsed Python expression over + - * /, the plain computation."""
    import ast

    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    assert isinstance(node, ast.BinOp)
    left, right = _value(node.left), _value(node.right)
    return {
        ast.Add: lambda: left + right,
        ast.Sub: lambda: left - right,
        ast.Mult: lambda: left * right,
        ast.Div: lambda: left / right,
    }[type(node.op)]()


def paid(answer: str, nums: object = (3, 5, 7), target: object = 8) -> float | None:
    text = get_format("xml").write("some work", answer)
    call = {"prompts": ["?"], "completions": [text], "answer": ["8"], "question": ["?"]}
    return REWARDS["countdown"](**call, nums=[nums], target=[target])[0]


@pytest.mark.parametrize("answer", ["3 * 5 - 7", "5*3-7", "(3 × 5) − 7", "3 * 5 - 7 = 8", "$3 * 5 - 7$"])
def test_an_expression_with_each_number_once_that_makes_the_target_is_paid(answer: str) -> None:
    assert paid(answer) == 1.0


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("8", "8 is too often or not given"),
        ("3 + 5", "7 is not used"),
        ("3 + 5 * 7", "it makes 38, not 8"),
        ("3 * 5 - 7 = 9", "the answer says that it makes 9, and it makes 8"),
        ("3 * 5 - 7 + 0", "0 is too often or not given"),
        ("3 * 5 - 7 * 1", "1 is too often or not given"),
        ("3 + 5 + 7 - 7", "7 is too often or not given"),
        ("35 - 27", "35 is too often or not given"),
        ("3 ** 5 - 7", "no expression"),
        ("3 - -5 * 7", "a minus sign of its own"),
        ("-7 + 3 * 5", "a minus sign of its own"),
        ("(-7) + 3 * 5", "a minus sign of its own"),
        ("\u22127 + 3 * 5", "a minus sign of its own"),
        ("-(7 - 3 * 5)", "no expression"),
        ("+3 * 5 - 7", "no expression"),
        ("3(5) - 7", "no expression"),
        ("3 5 7", "no expression"),
        ("3 * 5 - 7%", "no expression"),
        ("300% * 5 - 7", "no expression"),
        ("3 * 5 - 7!", "no expression"),
        ("3 x 5 - 7", "no expression"),
        ("\uff13 * 5 - 7", "no expression"),
        ("3 * 5 - \u200b7", "no expression"),
        ("3 * 5 - 7e0", "no expression"),
        ("3 * 5 - 7 // 1", "no expression"),
        ("8 = 3 * 5 - 7", "8 is too often or not given"),
        ("3 * 5 - 7 = 8 = 8", "says that it makes 8 = 8"),
        ("3 * 5 - 7 = eight", "says that it makes eight"),
        ("3.5 * 7", "7/2 is too often or not given"),
        ("3,5 - 7", "no expression"),
        ("(" * 30 + "3 * 5 - 7" + ")" * 30, "no expression"),
        ("3 * 5 - 7" + " + 0" * 80, "no expression"),
        ("3 * 5 - 7 or 5 + 3", "no expression"),
        ("9**9**9", "no expression"),
        ("__import__('os')", "no expression"),
        ("3/(5-5)+7", "no expression"),
        ("", "there is no single answer block"),
    ],
)
def test_a_broken_constraint_earns_nothing_and_is_named(answer: str, problem: str) -> None:
    assert paid(answer) == 0.0
    fmt = get_format("xml")
    assert problem in countdown_problem(fmt.parse(fmt.write("some work", answer)).answer, [3, 5, 7], 8)


@pytest.mark.parametrize("nums", [[3, 5, 7], (3.0, 5.0, 7.0), "3, 5, 7", "[3 5 7]", ["3", "5", "7"]])
def test_numbers_may_be_a_list_or_text(nums: object) -> None:
    assert paid("3*5-7", nums, "8") == 1.0


def test_repeated_numbers_must_be_used_as_often_as_given() -> None:
    assert paid("4 + 4", [4, 4]) == 1.0 and paid("4 * 2", [4, 4]) == 0.0 and paid("4 + 4", [4]) == 0.0


def test_without_nums_it_does_not_apply_and_without_target_the_gold_counts() -> None:
    assert paid("3*5-7", None) is None
    assert paid("3*5-7", target=None) == 1.0
    call = {"prompts": ["?"], "completions": ["3*5-7"], "answer": ["8"], "question": ["?"]}
    assert REWARDS["countdown"](**call) == [None]
    assert paid("3*5-7", nums="3 and 5") == 0.0


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=4), st.data())
def test_every_order_of_a_sum_is_paid(numbers: list[int], data: st.DataObject) -> None:
    order = data.draw(st.sampled_from(list(permutations(numbers))))
    assert paid(" + ".join(map(str, order)), numbers, sum(numbers)) == 1.0


@settings(deadline=None)
@given(st.text(max_size=60), st.one_of(st.none(), st.text(max_size=9), st.lists(st.integers())), st.text(max_size=9))
def test_it_never_raises_and_stays_in_its_range(answer: str, nums: object, target: str) -> None:
    assert paid(answer, nums, target) in (None, 0.0, 1.0)


def test_read_numbers_refuses_what_is_none() -> None:
    assert read_numbers(5) is None and read_numbers([True, 1]) is None and read_numbers("1, x") is None
    assert read_numbers([1] * 1000) is None


def test_a_huge_answer_takes_no_time() -> None:
    start = time.perf_counter()
    for piece in ("(", "1+", "9", " "):
        paid(piece * 1_000_000)
    assert time.perf_counter() - start < 2


def test_a_countdown_suite_needs_no_correct_and_limits_what_form_pays() -> None:
    fmt = get_format("xml")
    suite = build_suite({"countdown": 1.0, "format_parts": 0.1}, fmt)
    columns = {"answer": ["8"] * 2, "question": ["?"] * 2, "nums": [[3, 5, 7]] * 2, "target": [8] * 2}
    texts = [fmt.write("work", "3*5-7"), fmt.write("work", "8")]
    assert suite.score(["?"] * 2, texts, columns).totals == (1.1, 0.1)
