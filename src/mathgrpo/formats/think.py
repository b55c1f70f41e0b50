"""The <problem> / <think> / <answer> format.

Source: the layout of the step-verified reasoning notebook. That notebook gives no instruction and shows the gold
completion in the prompt, as `THINK_LEAKY` does. In `THINK` an instruction says the layout, and the prompt ends with the
problem.
"""

from __future__ import annotations

from mathgrpo.formats.format import Format
from mathgrpo.formats.tags import TagLayout

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
