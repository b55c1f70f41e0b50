import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathgrpo.formats import FORMATS, get_format
from mathgrpo.rewards import REWARDS, bound, build_suite
from reward_defects import DEFECTS, FULL, Defect, xml
from reward_suites import SOUND_WEIGHTS


def total(text: str, gold: str, fmt: str = "xml", question: str = "?", **weights: float) -> float:
    suite = build_suite(weights or SOUND_WEIGHTS, get_format(fmt))
    return suite.score(["?"], [text], {"answer": [gold], "question": [question]}).totals[0]


@pytest.mark.parametrize("row", DEFECTS, ids=lambda row: str(row.number))
def test_reward_defects_are_paid_fairly(row: Defect) -> None:
    assert total(row.text, row.gold, row.fmt, row.question) == pytest.approx(row.reward)


@pytest.mark.parametrize(
    "row", [row for row in DEFECTS if row.flexible in ("wrong", "refused")], ids=lambda row: str(row.number)
)
def test_no_wrong_defect_earns_anything_from_any_sound_reward(row: Defect) -> None:
    assert total(row.text, row.gold, row.fmt, row.question, correct=1.0, format=1.0, integer=1.0) == 0


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_right_in_form_beats_right_out_of_form_beats_wrong_in_perfect_form(name: str) -> None:
    fmt = get_format(name)
    right, wrong = fmt.write("9 * 2 = 18", "18"), fmt.write("9 * 2 = 19", "19")
    soft = "Well. " + fmt.write("9 * 2 = 18", "18") + " Bye."
    outside = "9 * 2 = 18\n#### 18"
    assert [total(text, "18", name) for text in (right, soft, outside, wrong)] == pytest.approx([1.1, 1.05, 0.25, 0.0])


@given(
    st.sampled_from(sorted(FORMATS)),
    st.integers(-99, 99),
    st.integers(-99, 99),
    st.floats(0.01, 100),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 0.99),
)
def test_a_wrong_answer_in_perfect_form_never_beats_a_right_one_whatever_the_weights(
    name: str, gold: int, other: int, correct: float, form: float, whole: float, share: float
) -> None:
    wrong = other if other != gold else gold + 1
    weights = {"correct": correct, "format": form, "integer": whole, "format_always": 0.25 * correct * share}
    perfect_wrong = total(get_format(name).write("1 + 1 = 2", str(wrong)), str(gold), name, **weights)
    for right in (
        str(gold),
        f"#### {gold}",
        get_format(name).write("", str(gold)),
        get_format(name).write("x", str(gold)),
    ):
        assert perfect_wrong < total(right, str(gold), name, **weights)


def test_hedging_outside_the_format_earns_nothing() -> None:
    for text in (
        "#### 17 #### 18",
        "\\boxed{18} #### 17",
        "17 or 18",
        "18 <answer>",
        "the answer is 18",
        "\\boxed{17} 18",
    ):
        assert total(text, "18") == 0, text


def test_form_needs_something_in_both_blocks() -> None:
    assert total(xml("18", ""), "18") == 1.0
    assert total(xml("18", "x"), "18") == pytest.approx(FULL)
    assert total(xml("", "x"), "18") == 0


def test_format_always_pays_a_wrong_number_but_no_word() -> None:
    weights = {"correct": 1.0, "format_always": 0.2}
    assert [total(xml(answer), "18", **weights) for answer in ("18", "19", "many")] == pytest.approx([1.2, 0.2, 0.0])


def test_integer_pays_plain_ascii_digits_and_does_not_apply_to_a_fraction() -> None:
    call = {"prompts": [""] * 7, "answer": ["18", "-10", "18", "18", "18", "1/2", "1,200"]}
    texts = [xml(answer) for answer in ("18", "-10", "$18", "\u0661\u0668", "19", "1/2", "1200")]
    assert REWARDS["integer"](completions=texts, **call) == [1.0, 1.0, 0.0, 0.0, 0.0, None, 1.0]


def test_a_sound_reward_runs_by_itself_as_trl_calls_it() -> None:
    completions = [[{"role": "assistant", "content": xml("18")}], [{"role": "assistant", "content": "so \\boxed{18}"}]]
    call = {
        "prompts": [[], []],
        "completions": completions,
        "completion_ids": [[1], [2]],
        "answer": ["18", "18"],
        "trainer_state": None,
    }
    assert REWARDS["correct"](**call) == [1.0, 0.25]
    in_boxes = bound(REWARDS["correct"], get_format("boxed"))
    assert in_boxes(**call) == [0.0, 1.0]
    assert in_boxes.__name__ == "correct"
