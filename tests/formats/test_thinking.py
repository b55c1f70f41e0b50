"""What a prompt has begun belongs to the layout, and thinking before the layout does not."""

from __future__ import annotations

import time

import pytest

from mathgrpo.answers import grade_completion
from mathgrpo.formats import Format, get_format
from mathgrpo.formats.thinking import THINKING, opened_in, split_thinking

XML, THINK, BOXED = get_format("xml"), get_format("think"), get_format("boxed")


@pytest.mark.parametrize(
    ("end", "begun", "opened"),
    [
        ("<|assistant|>", "", ""),
        ("<|assistant|><think>\n", "", "<think>\n"),  # R1 distills, thinking Qwen3 kinds, Nemotron 3
        ("<|assistant|><think>\n\n</think>\n\n", "", ""),  # Qwen3 with thinking off
        ("<|assistant|><think></think>", "", ""),
        ("[/INST][THINK]", "", "[THINK]"),
        ("<|assistant|><think>\n\n</think>\n\n<reasoning>", "", "<reasoning>"),
        ("<|assistant|>Let me", "Let me", "Let me"),
        ("<|assistant|><think>\n2 + 2", "2 + 2", "<think>\n2 + 2"),
        ("<|assistant|><reasoning>r</reasoning>\n<answer>", "<reasoning>r</reasoning>\n<answer>", None),
        ("<|assistant|><think>\n\n</think>\n\nLet me", "Let me ", "Let me"),
    ],
)
def test_what_a_prompts_end_has_begun(end: str, begun: str, opened: str | None) -> None:
    assert opened_in(end, begun) == (begun if opened is None else opened)


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
