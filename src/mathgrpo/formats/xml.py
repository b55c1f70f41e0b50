"""The <reasoning> / <answer> format.

Source: the system prompt of the GRPO notebook for Qwen2.5-0.5B-Instruct on GSM8K, word for word, so that models
trained elsewhere with it are evaluated in their own format.
"""

from __future__ import annotations

from mathgrpo.formats.format import Format
from mathgrpo.formats.tags import TagLayout

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
