"""The catalogue's entries for the reference systems' own rewards, faults included."""

from __future__ import annotations

import math

from mathgrpo.rewards import gist, multi, qwen_notebook, why
from mathgrpo.rewards.entry import Entry, Pay
from mathgrpo.rewards.steps import step_verified_reference

_STRICT = "each tag in a line of its own, a line break at the end"
_SOFT = "a reasoning block at the start, an answer block behind it, empty or not"

REFERENCES: dict[str, Entry] = {
    "reference_correctness": Entry(
        qwen_notebook.reference_correctness, "reference 1", "2.0 where the answer text equals the gold text, else 0.0",
        Pay(0, 2, wrong=0), "the last of several answers counts, and text without tags is an answer",
        why.reference_answer, source="reference system 1, correctness_reward_func", pays_right=True,
    ),
    "reference_integer": Entry(
        qwen_notebook.reference_integer, "reference 1", "0.5 where the answer text is all digits, else 0.0",
        Pay(0, 0.5, wrong=0.5), "any digits of any script, right or wrong",
        why.reference_answer, source="reference system 1, int_reward_func",
    ),
    "reference_strict_format": Entry(
        qwen_notebook.reference_strict_format, "reference 1", "0.5 where each tag has its own line, else 0.0",
        Pay(0, 0.5, wrong=0.5), "empty blocks and wrong answers are paid",
        why.said(f"asks for {_STRICT}; lines between do not matter"),
        source="reference system 1, strict_format_reward_func",
    ),
    "reference_soft_format": Entry(
        qwen_notebook.reference_soft_format, "reference 1", "0.5 for a reasoning block, then an answer block, else 0.0",
        Pay(0, 0.5, wrong=0.5), "empty blocks, and any text behind them",
        why.said(f"asks for {_SOFT}"), source="reference system 1, soft_format_reward_func",
    ),
    "reference_xml_count": Entry(
        qwen_notebook.reference_xml_count, "reference 1", "0.125 for each of the four tags that occurs anywhere",
        Pay(0, 0.5, wrong=0.5), "the tags alone", why.said("counts <reasoning>, </reasoning>, <answer>, </answer>"),
        source="reference system 1, xmlcount_reward_func",
    ),
    "multi_format_exactly": Entry(
        multi.multi_format_exactly, "reference 2", "3.0 for a working-out block and then a solution block, else 0.0",
        Pay(0, 3, wrong=3), "a wrong answer in form; text behind the solution's line",
        why.solution, source="reference system 2, match_format_exactly",
    ),
    "multi_format_approximately": Entry(
        multi.multi_format_approximately, "reference 2", "for each tag 0.5 if it occurs exactly once, else -0.5",
        Pay(-2, 2, wrong=2), "the tags alone",
        why.said("counts <start_working_out>, <end_working_out>, <SOLUTION>, </SOLUTION>"),
        source="reference system 2, match_format_approximately",
    ),
    "multi_answer_correctness": Entry(
        multi.multi_answer_correctness, "reference 2",
        "3.0 for the gold's text, 1.5 within 10 %, 0.5 within 20 %, -0.5 for any other, 0.0 without exact form",
        Pay(-0.5, 3, wrong=1.5), "guessing the size; no form is better than a wrong answer",
        why.solution, source="reference system 2, check_answer_correctness", pays_right=True,
    ),
    "multi_numbers_extraction": Entry(
        multi.multi_numbers_extraction, "reference 2",
        "1.5 where the first digits behind the first <SOLUTION> are the gold, else 0.0",
        Pay(0, 1.5, wrong=1.5), "a list that begins with the guess; the sign is not seen",
        why.said("compares the first run of digits and points behind the first <SOLUTION>"),
        source="reference system 2, check_numbers_extraction", pays_right=True,
    ),
    "step_verified_reference": Entry(
        step_verified_reference, "reference 3",
        "0.4 for the answer plus 0.2 for each line between <think> tags that math-verify finds true",
        Pay(0, math.inf, wrong=math.inf), "any number of true and useless lines",
        why.notebook_steps, source="reference system 3, reward_fn", pays_right=True,
    ),
    "gist_strict_format": Entry(
        gist.gist_strict_format, "reference 4", "0.5 where each tag and each block has exactly one line, else 0.0",
        Pay(0, 0.5, wrong=0.5), "empty lines and wrong answers are paid, reasoning of two lines is not",
        why.said(f"asks for {_STRICT}, and one line between"),
        source="the GRPO demo gist that reference system 4 extends, strict_format_reward_func",
    ),
    "gist_soft_format": Entry(
        gist.gist_soft_format, "reference 4", "0.5 for a reasoning block of one line, then such an answer block",
        Pay(0, 0.5, wrong=0.5), "empty blocks, and any text behind them",
        why.said(f"asks for {_SOFT}, each without a line break"),
        source="the GRPO demo gist that reference system 4 extends, soft_format_reward_func",
    ),
    "gist_xml_count": Entry(
        gist.gist_xml_count, "reference 4",
        "0.125 for each tag that stands once with its line breaks, less 0.001 for each character behind the answer",
        Pay(-math.inf, 0.5, wrong=0.5), "the tags alone; without the last tag every character costs",
        why.said("counts the tags with their line breaks, and the characters behind the last"),
        source="the GRPO demo gist that reference system 4 extends, xmlcount_reward_func",
    ),
}  # fmt: skip
