"""What a prompt has begun belongs to the layout, and thinking before the layout does not."""

from __future__ import annotations

import time

import pytest

from mathgrpo.answers import grade_completion
from mathgrpo.formats import Format, get_format
from mathgrpo.formats.thinking import THINKING, opened_by, split_thinking

XML, THINK, BOXED = get_format("xml"), get_format("think"), get_format("boxed")
ASKED = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n{}"


@pytest.mark.parametrize("fmt", [XML, THINK, BOXED], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("turn", ["", "What is 2 + 2?"])
@pytest.mark.parametrize(
    ("end", "opened"),
    [
        ("", ""),
        ("<think>\n", "<think>\n"),  # R1 distills, thinking Qwen3 kinds, Nemotron 3
        ("<think>", "<think>"),
        ("<think>\n\n</think>\n\n", ""),  # Qwen3 with thinking off
        ("<think></think>", ""),
        ("[THINK]", "[THINK]"),
    ],
)
def test_what_a_templates_end_has_begun(fmt: Format, turn: str, end: str, opened: str) -> None:
    assert opened_by(ASKED.format(fmt.system_prompt, end), fmt, turn) == opened


def test_an_answer_begun_for_the_model_is_its_beginning() -> None:
    turn = "What is 2 + 2?"
    for begun in ("<reasoning>\n", "<reasoning>\nLet me", "<reasoning>\nr\n</reasoning>\n<answer>\n"):
        assert opened_by(ASKED.format(XML.system_prompt, begun), XML, turn) == begun
    assert opened_by(ASKED.format(XML.system_prompt, "<think>\n\n</think>\n\n<reasoning>"), XML, turn) == "<reasoning>"
    # A question that speaks of tags has begun nothing.
    assert opened_by(ASKED.format("", "").replace("2 + 2", "<think>"), THINK, "What is <think>?") == ""


@pytest.mark.parametrize(
    ("fmt", "opened", "completion", "strict"),
    [
        (THINK, "<think>\n", "2 + 2 = 4\n</think>\n\n<answer>4</answer>", True),
        (THINK, None, "2 + 2 = 4\n</think>\n\n<answer>4</answer>", True),
        (THINK, "", "2 + 2 = 4\n</think>\n\n<answer>4</answer>", False),
        (THINK, "", "<think>2 + 2 = 4</think>\n\n<answer>4</answer>", True),
        (THINK, "<think>\n", "<think>2 + 2 = 4</think>\n\n<answer>4</answer>", False),
        (THINK, "<thought>\n", "hm</thought><think>2 + 2 = 4</think><answer>4</answer>", True),
        (XML, "<think>\n", "hm\n</think>\n\n" + XML.write("2 + 2 = 4", "4"), True),
        (XML, "", "<think>\n\n</think>\n\n" + XML.write("2 + 2 = 4", "4"), True),
        (XML, None, "hm\n</think>\n\n" + XML.write("2 + 2 = 4", "4"), True),
        (XML, "", "hm\n</think>\n\n" + XML.write("2 + 2 = 4", "4"), False),
        (XML, "<reasoning>\n", "2 + 2 = 4\n</reasoning>\n<answer>\n4\n</answer>\n", True),
        (XML, "<reasoning>\nSo ", "2 + 2 = 4\n</reasoning>\n<answer>\n4\n</answer>\n", True),
        (BOXED, "<think>\n", "2 + 2 = 4\n</think>\n\n\\boxed{4}", True),
        (BOXED, "<think>\n", "so \\boxed{4}\n</think>\n\nThe answer is $\\boxed{4}$.", True),
        (BOXED, None, "so \\boxed{4.0}\n</think>\n\nThe answer is \\boxed{4}", True),
    ],
)
def test_prompt_and_completion_together_are_the_layout(
    fmt: Format, opened: str | None, completion: str, strict: bool
) -> None:
    graded = grade_completion(completion, "4", fmt, opened=opened)
    assert graded.format_strict is strict
    assert graded.verdict == "correct" and graded.reasoning if strict else True


@pytest.mark.parametrize(
    ("fmt", "opened", "completion"),
    [
        (BOXED, "<think>\n", "so \\boxed{4}, I think"),
        (BOXED, None, "<think>\nso \\boxed{4}\n</think>\n\nThe answer is 5."),
        (BOXED, None, "<think>\nso \\boxed{4}\n</think>\n\nThe answer is \\boxed{5}."),
        (XML, "<think>\n", XML.write("2 + 2 = 4", "4")),
        (XML, "<think>\n", XML.write("2 + 2 = 5", "5") + "</think>" + XML.write("2 + 2 = 4", "4")),
        (THINK, "<think>\n", "<answer>5</answer></think><answer>4</answer>"),
    ],
)
def test_a_draft_alone_or_another_one_is_no_answer(fmt: Format, opened: str | None, completion: str) -> None:
    graded = grade_completion(completion, "4", fmt, opened=opened)
    assert graded.answer is None and not graded.format_soft


def test_thinking_is_split_in_linear_time() -> None:
    started = time.perf_counter()
    for opening, closing in THINKING:
        for text in (opening * 100_000, closing * 100_000, "x" * 10**6 + closing, f"{opening}{closing}" * 50_000):
            split_thinking(text)
            XML.parse(text), BOXED.parse(text)
    assert time.perf_counter() - started < 3.0
