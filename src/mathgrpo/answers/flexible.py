"""The answer of a completion wherever it stands: for evaluation ("flexible" accuracy), never paid as such.

Order: answer tags of any format; else \\boxed{}; else ####; else "answer is"/"answer:"; else the last formula or
number. At each of the first three stops several differing answers are no answer, and so is one that the text behind it
takes back. What stands behind the thinking goes before what stands in it. Every search is linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mathgrpo.answers.in_prose import last_expression
from mathgrpo.answers.marks import Mark, hashed, said_answer, tagged
from mathgrpo.answers.numbers import parse_number
from mathgrpo.answers.taken_back import is_taken_back
from mathgrpo.formats.agreement import Same, agreed, same_text
from mathgrpo.formats.layouts import Box, answer_boxes, box_contents
from mathgrpo.formats.thinking import split_thinking
from mathgrpo.types import Verdict

Stop = Literal["format", "tag", "box", "hash", "said", "last", "none"]

AMBIGUOUS = Verdict("ambiguous", why="there are several answers, and they differ")
NOT_IN_FORMAT = Verdict("no_answer", why="there is no answer where the format has it")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer found in a text.

    Attributes:
        answer: its text, None without one.
        stop: where it was found.
        ambiguous: there are several that differ.
    """

    answer: str | None = None
    stop: Stop = "none"
    ambiguous: bool = False


def flexible_answer(text: str) -> str | None:
    """Return the answer of a completion wherever it stands, None when there is none or several differ.

    Example:
        >>> flexible_answer("So 9 * 2 = 18.\\n#### 18"), flexible_answer("\\\\boxed{18} or \\\\boxed{19}")
        ('18', None)
    """
    return find_answer(text, same_number).answer


def same_number(one: str, other: str) -> bool:
    """Return whether two answers are the same text, or numbers of the same value."""
    value = parse_number(one)
    return same_text(one, other) or (value is not None and value == parse_number(other))


def find_answer(text: str, same: Same, *, question: str = "") -> Found:
    """Return the answer of a completion wherever it stands, and where that was.

    Args:
        text: the completion, with what the prompt has begun of it.
        same: whether two answers are one.
        question: a box that only repeats one of its boxes is no answer where there is another.
    """
    thinking, final = split_thinking(text)
    found = _find(final, thinking or "", same, question)
    return found if found.stop != "none" or not thinking else _find(thinking, "", same, question)


def _find(text: str, drafts: str, same: Same, question: str) -> Found:
    readers: tuple[tuple[Stop, Callable[[str], Sequence[Mark | Box]]], ...] = (
        ("tag", tagged), ("box", partial(answer_boxes, echoed=box_contents(question))), ("hash", hashed),
    )  # fmt: skip
    for stop, read in readers:
        marks = read(text)
        if marks:
            answer, several = agreed([mark.inner for mark in (*read(drafts), *marks)], same)
            broken = marks[-1].end < 0 or any("\\boxed" in mark.inner for mark in marks)
            broken = broken or (len(marks) > 1 and not all(mark.inner for mark in marks))
            if several or broken or (answer and is_taken_back(answer, text[marks[-1].end :], same)):
                return Found(None, stop, ambiguous=True)
            return Found(answer, stop)
    said = said_answer(text)
    if said is not None:
        return Found(said or None, "said", ambiguous=not said)
    last = last_expression(text)
    return Found() if last is None else Found(last or None, "last")
