"""Verified steps: what counts, what does not pay however often it is written, and the notebook's own reward."""

import json
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_code
from mathgrpo.answers import parse_number
from mathgrpo.formats import get_format
from mathgrpo.problems.worked import split_answer
from mathgrpo.rewards import REWARDS, build_suite
from mathgrpo.rewards.reference import step_verified
from mathgrpo.rewards.steps.claims import read_claims
from mathgrpo.rewards.steps.verified import StepsSettings, check_steps
from reward_suites import STEP_WEIGHTS

FILE = "3-step-verified-reasoning-notebook.txt"
NATALIA = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
WORK = "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May."


def think(reasoning: str, answer: str) -> str:
    return get_format("think").write(reasoning, answer)


def share(reasoning: str, answer: str, gold: str = "72", question: str = NATALIA, **own: float) -> float:
    call = {"prompts": ["?"], "completions": [think(reasoning, answer)], "answer": [gold], "question": [question]}
    given = {"settings": StepsSettings(**own)} if own else {}
    return REWARDS["verified_steps"](**call, response_format=get_format("think"), **given)[0]


def kinds(reasoning: str, answer: str = "72", question: str = NATALIA) -> list[str]:
    return [step.kind for step in check_steps(reasoning, question, Fraction(answer))]


@pytest.mark.parametrize(
    ("line", "claims"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.", [("48/2 = 24", True)]),
        ("5 apples + 3 apples = 8 apples", [("5 + 3 = 8", True)]),
        ("20% of 50 = 10", [("20% * 50 = 10", True)]),
        ("$1,200 x 2 = $2,400.", [("$1,200 * 2 = $2,400", True)]),
        ("- 48/2 = 24", [("48/2 = 24", True)]),
        ("2. 48/2 = 24 and 24+48 = 72", [("48/2 = 24", True), ("24 + 48 = 72", True)]),
        ("2*3=6=12/2", [("2 * 3 = 6", True), ("6 = 12/2", True)]),
        ("2(3+4) = 14", [("2 * (3 + 4) = 14", True)]),
        ("16 - 3 - 4 = 9 eggs - good", [("16 - 3 - 4 = 9", True)]),
        ("10/3 = 3.33 or so", [("10/3 = 3.33", True)]),
        ("10/3 = 3.3", [("10/3 = 3.3", False)]),
        ("-3 + 5 = 2", [("- 3 + 5 = 2", True)]),
        ("2 + 2 = 5", [("2 + 2 = 5", False)]),
        ("24 questions x 75/100 = 18 points", [("24 * 75/100 = 18", True)]),
        ("2 loads/week * 52 weeks/year = 104", [("2 * 52 = 104", True)]),
        ("100 - 60 = 40% of it", [("100 - 60 = 40%", True)]),
        ("1 – 3/4 = 1/4", [("1 - 3/4 = 1/4", True)]),
        # prose, no claim that 2 is 32
        ("16 students drank 2 quarts = 16 * 2 = 32 quarts", [("16 * 2 = 32", True)]),
        (r"\frac{1}{2} \times 8 = 4", [("((1)/(2)) * 8 = 4", True)]),
        # LaTeX that is left, and powers: the child process
        (r"So $\sqrt{16} = 4$ eggs", [(r"\sqrt{16} = 4", True)]),
        ("5^2 = 26", [("5^2 = 26", False)]),
        # nothing that can be checked: variables, no operation, mixed numbers, cut-off expressions
        ("2x + 3 = 7", []),
        ("x = 5", []),
        ("7/2 = 3 1/2", []),
        ("profit - 3*2 = 10", []),
        ("2 + 2 == 4", []),
        ("3 = ", []),
        ("9**9**9 = 1", []),
        # a number or bracket that is a part of something else is none
        ("x1 + 3 = 5", []),
        ("1e3 + 1 = 1001", []),
        ("sqrt(9 + 16) = 5", []),
        ("abs(3 - 5) = 2", []),
        ("log2(8) = 3", []),
        ("√16 + 9 = 13", []),
        ("√(9 + 16) = 5", []),
        ("2,5 + 1 = 3,5", []),
        ("10:30 + 1 = 11:30", []),
        ("\u0663\u0663 3 + 1 = 4", [("3 + 1 = 4", True)]),
        ("\u06633 + 1 = 4", []),
        ("3*3 + 16 = 5²", []),
        ("1 + 5 = 3!", []),
        ("10 - 4 = 2x", []),
        ("5 + 5 = 3 + 4x", []),
        ("10 - 4 = 3 + x", []),
        ("4 + 6 = 2(5)", []),
        ("3! + 1 = 7", []),
        ("5! = 120", []),
        ("5 + 3 mod 2 = 6", []),
        # but a full stop, a comma, an exclamation mark or a unit behind a true result is none of these
        ("So 48/2 = 24!", [("48/2 = 24", True)]),
        ("48/2 = 24, 24 + 1 = 25.", [("48/2 = 24", True), ("24 + 1 = 25", True)]),
        ("2 + 2 = 5 a day", [("2 + 2 = 5", False)]),
        ("2 + 2 = 5.", [("2 + 2 = 5", False)]),
        ("half of them (48/2 = 24) in May", [("48/2 = 24", True)]),
        ("((48 + 2) * 2 = 100)", [("(48 + 2) * 2 = 100", True)]),
        ("| 48/2 = 24 |", [("48/2 = 24", True)]),
        ("2x(3+5) = 16", [("2 * (3 + 5) = 16", True)]),
        ("\u0662 + \u0662 = \u0664", []),
    ],
)
def test_claims_are_read_from_lines(line: str, claims: list[tuple[str, bool]]) -> None:
    assert [(claim.text, claim.true) for claim in read_claims(line)] == claims


def test_the_worked_solution_counts_line_by_line() -> None:
    assert kinds(WORK) == ["counts", "counts"]
    assert share(WORK, "72") == pytest.approx(2 / 3)
    assert share(WORK, "72", max_lines=2) == 1.0


def test_a_wrong_answer_earns_a_small_share_of_the_steps_that_lead_to_it() -> None:
    assert share("48/2 = 24\n48+24 = 72\n72+48 = 120", "120") == pytest.approx(0.15)
    assert share(WORK, "99") == 0.0
    assert share("48/2 = 24", "24", wrong_share=0.0) == 0.0


@pytest.mark.parametrize(
    ("padding", "kind"),
    [
        ("48/2 = 24", "repeated"),
        ("2*24 = 48", "unused"),
        ("48 + 48 = 96", "unused"),
        ("48 * 1 = 48", "trivial"),
        ("24 + 0 = 24", "repeated"),
        ("48 + 24 - 24 = 48", "trivial"),
        ("72 * 2 / 2 = 72", "repeated"),
        ("1 + 1 = 2", "foreign"),
        ("5 + 5 = 10", "foreign"),
        ("48 + 1000000 = 1000048", "foreign"),
        ("72 + 48 = 120", "unused"),
        ("48 + 24 = 72.00", "repeated"),
    ],
)
@pytest.mark.parametrize("times", [1, 50])
def test_true_but_useless_lines_do_not_pay(padding: str, kind: str, times: int) -> None:
    padded = WORK + ("\n" + padding) * times
    assert share(padded, "72") == share(WORK, "72")
    assert kinds(padded)[2] == kind


def test_false_lines_take_true_ones_back() -> None:
    assert share(WORK + "\n72 + 1 = 74", "72") == pytest.approx(1 / 3)
    assert share(WORK + "\n72 + 1 = 74" * 9, "72") == 0.0


def test_a_detour_back_to_a_number_of_the_question_does_not_pay() -> None:
    assert share("48 + 2 = 50\n50 - 2 = 48\n" + WORK, "72") == share(WORK, "72")
    assert share("48 * 2 = 96\n96 / 2 = 48\n" + WORK, "72") == share(WORK, "72")


def test_a_result_that_the_question_names_counts_as_the_answer() -> None:
    assert kinds("4/2 = 2", "2", "4 apples for 2 boys, how many each?") == ["counts"]


@pytest.mark.shared
def test_most_lines_of_gsm8ks_worked_solutions_count_and_hardly_any_is_called_false(gsm8k_folder: Path) -> None:
    rows = [json.loads(line) for line in (gsm8k_folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    found = []
    for row in rows:
        gold, solution = split_answer(row["answer"])  # type: ignore[misc]
        found += [step.kind for step in check_steps(solution or "", row["question"], parse_number(gold))]
    assert len(found) > 4000
    assert found.count("counts") / len(found) > 0.75 and found.count("false") / len(found) < 0.005


def test_no_single_answer_or_no_reasoning_earns_nothing() -> None:
    assert share(WORK, "") == 0.0
    assert share("", "72") == 0.0
    assert share("I know it.", "72") == 0.0


def test_steps_outside_the_reasoning_block_do_not_count() -> None:
    call = {"prompts": ["?"], "answer": ["72"], "question": [NATALIA], "response_format": get_format("think")}
    assert REWARDS["verified_steps"](completions=[WORK + think("so", "72") + WORK], **call) == [0.0]


def test_the_bounded_suite_pays_what_the_notebook_pays_for_honest_work_and_never_a_wrong_answer_more() -> None:
    suite = build_suite(STEP_WEIGHTS, get_format("think"))
    three = "48/2 = 24\n48+24 = 72\n72+48 = 120"

    def total(text: str, gold: str) -> float:
        return suite.score(["?"], [text], {"answer": [gold], "question": [NATALIA]}).totals[0]

    assert total(think(WORK, "72"), "72") == pytest.approx(0.4 + 2 * 0.2)
    # the best that a wrong answer can earn, and the least a right one does
    assert total(think(three, "120"), "72") == pytest.approx(0.09)
    assert total("#### 72", "72") == pytest.approx(0.1)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["48/2 = 24", "48+24 = 72", "1+1 = 2", "48 + 48 = 96", "2+2 = 5", "96-24 = 72", "so"])))
def test_a_line_counts_once_at_most_in_whatever_order_lines_stand(lines: list[str]) -> None:
    text = "\n".join(lines * 3)
    assert 0 <= share(text, "72", max_lines=50) <= len(set(lines)) / 50
    assert kinds(text).count("counts") <= len(set(lines))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789+-*/()=.,% $x\n<>aofé²", max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    for claim in read_claims(text):
        assert claim.operands and isinstance(claim.true, bool)


def test_huge_texts_are_read_in_bounded_time() -> None:
    start = time.perf_counter()
    for piece in ("1 + 1 = 2\n", "1+", "(", "=", "= 1 ", "apples ", "$", "\\frac{", "9" * 50 + "*"):
        share((piece * 200_000)[:1_000_000], "72")
    assert time.perf_counter() - start < 10


# The notebook's own reward.

needs_notebook = pytest.mark.skipif(
    not (reference_code.FOLDER / FILE).is_file(), reason="the reference notebooks are not beside this repository"
)
ANNOTATED = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May."
)


def notebook_paid(text: str, gold: str) -> float | None:
    return REWARDS["step_verified_reference"](prompts=["?"], completions=[text], answer=[gold], question=["?"])[0]


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        # the notebook's own two examples: 0.8, and 0.4 with another gold
        (think(ANNOTATED, "72"), "72", 0.8),
        (think(ANNOTATED, "72"), "82", 0.4),
        # padding pays without bound
        (think("1 + 1 = 2\n" * 20, "7"), "18", 4.0),
        (think("1 + 1 = 3", "18"), "18", 0.4),
        ("<answer>18</answer>", "18", 0.4),
        ("<answer> 18 </answer>", "18", 0.0),
        ("<answer>7</answer><answer>18</answer>", "18", 0.0),
        ("<think>2 + 2 = 4</think>", "18", 0.2),
        ("<think>2 + 2 = 4", "18", 0.0),
        # of the gold only its first whole number is compared
        ("<answer>1</answer>", "1,200", 0.4),
        ("<answer>1200</answer>", "1,200", 0.0),
        ("", "18", 0.0),
    ],
)
def test_the_notebooks_reward_pays_what_the_notebook_pays(text: str, gold: str, score: float) -> None:
    assert notebook_paid(text, gold) == pytest.approx(score)


def test_the_notebooks_reward_does_not_apply_where_the_notebook_drops_the_problem() -> None:
    assert notebook_paid("<answer>18</answer>", "x") is None


LINES = [
    "2 + 2 = 4", "2 + 2 = 5", "so 48/2 = 24 clips", "x = 3", "3*4 = 12 = 5", "=", "1/3 = 0.333333", "20% = 0.2",
    "(1+2)*3 = 9", "5 = 5", "no equation", "2^3 = 8", "He has 3 apples = 3", "1,000 + 1 = 1001", "$5 + $3 = $8",
    "10 - 4 = <<10-4=6>>6", "= 7", "7 =", "<b> = 2", "1/0 = 1", "0.5 * 2 = 1.0", "\t 2*3=6", "a = b",
    "5! = 120", "1e3 = 1000", "50% = 0.5", "\uff12+\uff12=\uff14", "1/0 = 1/0", "nan = nan", "inf = inf", "True = 1",
    "2+2=4=4",
    "4 == 4", "\u200b2 = 2", "2 = 2\u200b", "\u202e2 = 2", "\u00bd = 0.5", "3 1/2 = 3.5", "-(-2) = 2", "1,5 = 1.5",
    "\x00 = \x00",
    "1\u20442 = 0.5", "2 \u00d7 3 = 6", "6 \u00f7 2 = 3", "2**3 = 8", "[2] = 2", "{2} = 2", "2; 3 = 3",
    "\\frac{1}{2} = 0.5",
]  # fmt: skip


@needs_notebook
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from(["18", "7", " 18", "\u0661\u0668", "018", "x"]),
    st.sampled_from(["18", "-18", "7"]),
    st.sampled_from(["<think>{}</think><answer>{}</answer>", "<think>{}<answer>{}</answer>", "{}<answer>{}</answer>"]),
)
def test_it_equals_the_notebooks_own_code(lines: list[str], answer: str, gold: str, layout: str) -> None:
    code = reference_code.functions(FILE, "from math_verify import", "Let's test this reward", {"re": re})
    text = layout.format("\n".join(lines), answer)
    assert notebook_paid(text, gold) == code["reward_fn"](["?"], [text], [int(gold)])[0]


@pytest.mark.slow
def test_a_line_that_hangs_costs_its_limit_and_the_third_is_not_tried() -> None:
    start = time.perf_counter()
    assert notebook_paid(
        "<think>" + "\n".join(f"9**9**9**{i} = 1" for i in range(5)) + "\n1 + 1 = 2</think>", "18"
    ) in (
        0.0,
        0.2,
    )
    assert time.perf_counter() - start < 30


def test_so_many_lines_that_they_take_long_are_not_all_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_verified, "MAX_TRIED_LINES", 3)
    text = "<think>no equation\n" + "\n".join(f"{i} + 1 = {i + 1}" for i in range(5)) + "</think>"
    assert notebook_paid(text, "18") == pytest.approx(3 * 0.2)
