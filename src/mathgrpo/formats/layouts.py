"""The response formats: tagged blocks of three kinds, and the answer in a box."""

from __future__ import annotations

from dataclasses import dataclass

from mathgrpo.formats.format import Format, Parsed, TagLayout, closing_brace

XML = Format(
    name="xml",
    system_prompt="\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n",
    layout=TagLayout(
        reasoning_tags=("<reasoning>", "</reasoning>"),
        answer_tags=("<answer>", "</answer>"),
        reasoning_edge="\n",
        answer_edge="\n",
        gap="\n",
        tail="\n",
    ),
)


WORKING_OUT = Format(
    name="working_out",
    system_prompt=(
        "You are a mathematical reasoning assistant.\n"
        "When given a math problem:\n"
        "1. Show your step-by-step work between <start_working_out> and <end_working_out>\n"
        "2. Provide your final numerical answer between <SOLUTION> and </SOLUTION>\n"
        "3. Be precise and show all calculation steps clearly."
    ),
    layout=TagLayout(
        reasoning_tags=("<start_working_out>", "<end_working_out>"),
        answer_tags=("<SOLUTION>", "</SOLUTION>"),
    ),
)


_LAYOUT = TagLayout(
    reasoning_tags=("<think>", "</think>"),
    answer_tags=("<answer>", "</answer>"),
    reasoning_edge="\n",
    gap="\n\n",
)

THINK = Format(
    name="think",
    system_prompt=(
        "Solve the problem step by step. First write your reasoning between <think> and </think>, one calculation "
        "a line, then only the final number between <answer> and </answer>."
    ),
    layout=_LAYOUT,
    question_prefix="<problem>\n",
    question_suffix="\n</problem>",
)

THINK_LEAKY = Format(
    name="think_leaky",
    system_prompt="",
    layout=_LAYOUT,
    question_prefix="<problem>\n",
    question_suffix="\n</problem>",
    leaky=True,
)
"""The notebook's own prompt: problem, worked solution and answer, and nothing else. A model learns to copy from it."""


_BOX = "\\boxed{"
# What may follow the box in a sentence that ends with it, such as "the answer is $\boxed{18}$."
_CLOSINGS = frozenset(mark + stop for mark in ("", "$", "$$", "\\)", "\\]") for stop in ("", ".")) | {".$", ".$$"}


@dataclass(frozen=True, slots=True)
class BoxedLayout:
    """Reasoning without tags, one box at the end."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The opening of the box; its closing brace is like any other."""
        return (_BOX,)

    def write(self, reasoning: str, answer: str) -> str:
        """Return a completion with this reasoning and this answer, both stripped."""
        return f"{reasoning.strip()}\n\n{_BOX}{answer.strip()}}}"

    def parse(self, completion: str) -> Parsed:
        """Return reasoning (all text before the box), answer and the two checks of a completion.

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


BOXED = Format(
    name="boxed",
    system_prompt="Please reason step by step, and put your final answer within \\boxed{}.",
    layout=BoxedLayout(),
)
