"""The reward functions of trl.rewards under their names: equal to TRL's on ordinary text, unharmed by hostile text."""

from __future__ import annotations

from typing import Any

import pytest

import mathgrpo
from mathgrpo.trl_api import trl_rewards

CASES = [
    (r"so \boxed{\frac{1}{3}}", r"\frac{1}{3}"), (r"so \boxed{\frac{1}{2}}", r"\frac{1}{3}"),
    (r"\boxed{0.5}", r"$\frac{1}{2}$"), ("no answer", "4"), ("it is $4$", "4"), ("The final answer is $4$.", "4"),
    (r"\boxed{5} then \boxed{4}", "4"), (r"\boxed{18}", r"He has \boxed{18} left"), ("", "7"),
    (r"\boxed{x^2+1}", r"$1+x^2$"), (r"\boxed{4", "4"),
]  # fmt: skip
COMPLETIONS = [[{"role": "assistant", "content": text}] for text, _ in CASES]
SOLUTIONS = [solution for _, solution in CASES]


def test_accuracy_equals_trl_on_ordinary_text() -> None:
    theirs = pytest.importorskip("trl.rewards").accuracy_reward(COMPLETIONS, SOLUTIONS)
    assert mathgrpo.accuracy_reward(COMPLETIONS, SOLUTIONS) == theirs


def test_a_gold_that_cannot_be_read_does_not_apply() -> None:
    extra: dict[str, Any] = {}
    rewards = mathgrpo.accuracy_reward([r"\boxed{4}"], ["see the appendix"], log_extra=extra.__setitem__)
    assert rewards == [None] and extra["gold_parsed"] == ["[unparseable]"]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{\boxed{5}",
        "\\boxed{" * 50000 + "4" + "}" * 50000,
        r"\boxed{9^{9^{9^9}}}",
        "\\boxed{" * 5000,
        r"\boxed{__import__('os').system('ls')}",
    ],
)
def test_hostile_answers_are_wrong_and_quick(text: str) -> None:
    assert mathgrpo.accuracy_reward([text], ["4"]) == [0.0]


def test_nested_braces_and_boxes_belong_to_the_answer() -> None:
    final = trl_rewards.final_answer
    assert final(r"\boxed{\frac{1}{2}} and \boxed {\frac{1}{2}}") == r"\frac{1}{2}"
    assert final(r"\boxed{\{1, 2\}}") == r"\{1, 2\}" and final(r"\boxed{\boxed{4}}") == r"\boxed{4}"
    assert final(r"\boxed{4} \boxed{5}") is None and final(r"\boxed{}") is None and final(r"} \boxed{4}") == "4"


def test_reasoning_must_end_before_the_answer_counts() -> None:
    texts = [r"<think>\boxed{3}</think> \boxed{4}", r"<think>\boxed{4}", r"<think></think>\boxed{5}"]
    assert mathgrpo.reasoning_accuracy_reward(texts, ["4"] * 3) == [1.0, 0.0, 0.0]
    assert mathgrpo.reasoning_accuracy_reward([r"a END \boxed{4}"], ["4"], reasoning_delimiters=["END"]) == [1.0]


TEXTS = ["<think>a\nb</think>c", "<think>a", " <think>a</think>", "<think>a</think><think>b</think>", "", "x</think>"]
IDS = [list(range(n)) for n in (0, 2, 8, 11, 12, 15, 16, 17, 40)] + [[1] * 6, [1, 2, 1, 2, 1, 2], [3, 3]]


def test_format_and_length_rewards_equal_trl() -> None:
    theirs = pytest.importorskip("trl.rewards")
    messages = [[{"role": "assistant", "content": text}] for text in TEXTS]
    assert mathgrpo.think_format_reward(messages) == theirs.think_format_reward(messages)
    ours, expected = (m.get_soft_overlong_punishment(16, 4)(completion_ids=IDS) for m in (mathgrpo, theirs))
    if expected is None:
        pytest.fail("TRL's function returns nothing")
    assert ours == pytest.approx(expected)
    for size in (2, 3):
        ours, expected = (m.get_repetition_penalty_reward(size, -0.5)(completion_ids=IDS) for m in (mathgrpo, theirs))
        assert ours == pytest.approx(expected)
    call = {"completions": [r"\boxed{4}"] * 6 + [r"\boxed{5}"] * 6, "solution": ["4"] * 12, "completion_ids": IDS}
    wrapped = call | {"completions": [[{"role": "assistant", "content": c}] for c in call["completions"]]}
    ours, expected = (m.get_cosine_scaled_reward(max_len=16)(**wrapped) for m in (mathgrpo, theirs))
    assert ours == pytest.approx(expected)
