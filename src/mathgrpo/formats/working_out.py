"""The <start_working_out> / <SOLUTION> format.

Source: the system prompt of the multi-reward GRPO notebook, word for word, so that models trained elsewhere with it
are evaluated in their own format.
"""

from __future__ import annotations

from mathgrpo.formats.format import Format
from mathgrpo.formats.tags import TagLayout

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
