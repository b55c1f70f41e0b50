"""The response formats: tagged blocks of three kinds, and the answer in a box."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mathgrpo.formats.format import Format, Parsed, TagFormat

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
_CLOSINGS = frozenset(mark + stop for mark in ("", "$", "$$", "\\)", "\\]") for stop in ("", ".")) | {".$", ".$$"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxedFormat(Format):
    """Reasoning without tags, one box at the end."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The opening of the box; its closing brace is like any other."""
        return (_BOX,)

    def write(self, reasoning: str, answer: str) -> str:
        return f"{reasoning.strip()}\n\n{_BOX}{answer.strip()}}}"

    def parse(self, completion: str) -> Parsed:
        """Return reasoning (all text before the box), answer and the two checks.

        Without a box the reasoning is the whole text, since nothing else marks it; with several boxes, the text
        before the first.
        """
        start = completion.find(_BOX)
        reasoning = (completion if start < 0 else completion[:start]).strip() or None
        if completion.count(_BOX) != 1 or (end := closing_brace(completion, start + len(_BOX))) < 0:
            return Parsed(reasoning, None, strict=False, soft=False)
        answer = completion[start + len(_BOX) : end].strip() or None
        soft = reasoning is not None and answer is not None
        return Parsed(reasoning, answer, strict=soft and completion[end + 1 :].strip() in _CLOSINGS, soft=soft)


BOXED = BoxedFormat(
    name="boxed", system_prompt="Please reason step by step, and put your final answer within \\boxed{}."
)


_OPENING = re.compile(r"\\boxed\s*\{")


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def box_contents(text: str) -> list[str]:
    r"""Return what stands in each \boxed{}, stripped; a box in a box is a part of it. "" for one that never closes.

    Example:
        >>> box_contents(r"\boxed{\frac{1}{2}} or \boxed{ 3"), box_contents(r"\boxed{\boxed{1}}")
        (['\\frac{1}{2}', ''], ['\\boxed{1}'])
    """
    contents, place = [], 0
    while opening := _OPENING.search(text, place):
        end = closing_brace(text, opening.end())
        contents.append(text[opening.end() : end].strip() if end >= 0 else "")
        place = end if end >= 0 else len(text)
    return contents


def closing_brace(text: str, start: int) -> int:
    r"""Return the index of the brace that closes the one just before `start`, -1 without one; \{ and \} are text."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return -1
