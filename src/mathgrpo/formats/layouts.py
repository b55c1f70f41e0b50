"""The response formats: tagged blocks of three kinds, and the answer in a box."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mathgrpo.formats.agreement import Same, agreed, holds_place, same_text
from mathgrpo.formats.format import Format, Parsed, TagFormat
from mathgrpo.formats.thinking import split_thinking

XML = TagFormat(
    name="xml",
    system_prompt="\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n",
    reasoning_tags=("<reasoning>", "</reasoning>"),
    answer_tags=("<answer>", "</answer>"),
    reasoning_edge="\n",
    answer_edge="\n",
    gap="\n",
    tail="\n",
)


WORKING_OUT = TagFormat(
    name="working_out",
    system_prompt=(
        "You are a mathematical reasoning assistant.\n"
        "When given a math problem:\n"
        "1. Show your step-by-step work between <start_working_out> and <end_working_out>\n"
        "2. Provide your final numerical answer between <SOLUTION> and </SOLUTION>\n"
        "3. Be precise and show all calculation steps clearly."
    ),
    reasoning_tags=("<start_working_out>", "<end_working_out>"),
    answer_tags=("<SOLUTION>", "</SOLUTION>"),
)


THINK = TagFormat(
    name="think",
    system_prompt=(
        "Solve the problem step by step. First write your reasoning between <think> and </think>, one calculation "
        "a line, then only the final number between <answer> and </answer>."
    ),
    reasoning_tags=("<think>", "</think>"),
    answer_tags=("<answer>", "</answer>"),
    reasoning_edge="\n",
    gap="\n\n",
    question_prefix="<problem>\n",
    question_suffix="\n</problem>",
)

THINK_LEAKY = replace(THINK, name="think_leaky", system_prompt="", leaky=True)
"""The notebook's own prompt: problem, worked solution and answer, and nothing else. A model learns to copy from it."""


_BOX = "\\boxed{"
# What may follow the box in a sentence that ends with it, such as "the answer is $\boxed{18}$."
_CLOSING = re.compile(r"(?:[\s.$*]|\\[\])]){0,12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxedFormat(Format):
    """Reasoning without tags, one box at the end."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The opening of the box; its closing brace is like any other."""
        return (_BOX,)

    def write(self, reasoning: str, answer: str) -> str:
        return f"{reasoning.strip()}\n\n{_BOX}{answer.strip()}}}"

    def parse(
        self, completion: str, *, opened: str | None = None, question: str = "", same: Same = same_text
    ) -> Parsed:
        """Return reasoning (thinking, and all text before the box), answer and the two checks.

        Without a box the reasoning is the whole text, since nothing else marks it; with several equal boxes, the text
        before the first.
        """
        thinking, text = split_thinking((opened or "") + completion)
        echoed = box_contents(question)
        drafts, finals = answer_boxes(thinking or "", echoed), answer_boxes(text, echoed)
        before = text[: finals[0].start] if finals else text
        reasoning = "\n\n".join(part for part in (thinking, before.strip()) if part) or None
        if not finals or any("\\boxed" in box.inner or box.end < 0 for box in finals):
            return Parsed(reasoning, None, strict=False, soft=False)
        answer, several = agreed([box.inner for box in (*drafts, *finals)], same)
        tail = text[finals[-1].end :]
        soft = reasoning is not None and answer is not None
        strict = soft and len(finals) == 1 and _CLOSING.fullmatch(tail.strip()) is not None
        return Parsed(reasoning, answer, strict, soft, several, tail)


BOXED = BoxedFormat(
    name="boxed", system_prompt="Please reason step by step, and put your final answer within \\boxed{}."
)


_OPENING = re.compile(r"\\boxed\s*\{")


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class Box(NamedTuple):
    """A box: where it starts and ends, and what stands in it, stripped; end -1 and "" for one that never closes."""

    start: int
    end: int
    inner: str


def boxes(text: str) -> list[Box]:
    r"""Return each \boxed{} of a text; a box in a box is a part of it."""
    found, place = [], 0
    while opening := _OPENING.search(text, place):
        end = closing_brace(text, opening.end())
        found.append(Box(opening.start(), end + 1 if end >= 0 else -1, text[opening.end() : max(end, 0)].strip()))
        place = end if end >= 0 else len(text)
    return found


def box_contents(text: str) -> list[str]:
    r"""Return what stands in each \boxed{}, stripped; a box in a box is a part of it. "" for one that never closes.

    Example:
        >>> box_contents(r"\boxed{\frac{1}{2}} or \boxed{ 3"), box_contents(r"\boxed{\boxed{1}}")
        (['\\frac{1}{2}', ''], ['\\boxed{1}'])
    """
    return [box.inner for box in boxes(text)]


def answer_boxes(text: str, echoed: Sequence[str]) -> list[Box]:
    """Return a text's boxes without those that repeat the question's or the instruction's, as long as one is left."""
    found, repeated = boxes(text), list(echoed)
    own = []
    for box in found:
        if box.inner in repeated:
            repeated.remove(box.inner)
        elif box.end < 0 or not holds_place(box.inner):
            own.append(box)
    return own or found


def closing_brace(text: str, start: int) -> int:
    r"""Return the index of the brace that closes the one just before `start`, -1 without one; \{ and \} are text."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return -1
