"""One text graded for a reader: an answer, or a completion in which it has to be found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from mathgrpo.answers.flexible import AMBIGUOUS, Found, find_answer
from mathgrpo.answers.grade import grade, grade_completion
from mathgrpo.answers.taken_back import same_answer
from mathgrpo.formats import Format
from mathgrpo.types import Graded, Verdict

MAX_ANSWER_CHARS = 100
"""A longer text, or one of several lines, is a completion."""

PLACES = {
    "format": "the format's answer",
    "tag": "answer tags",
    "box": "a box",
    "hash": "behind ####",
    "said": "said to be the answer",
    "last": "the last formula or number",
    "none": "",
}
"""`Graded.found_at` in words."""


@dataclass(frozen=True, slots=True)
class GradedText:
    """What the grader says of a text.

    Attributes:
        verdict: on the answer.
        where: where the answer stands in words, "the whole text" for one that is nothing else.
        graded: the completion as its format reads it; None for a text of no format.
    """

    verdict: Verdict
    where: str
    graded: Graded | None = None


def grade_text(text: str, gold: str, *, question: str = "", fmt: Format | None = None) -> GradedText:
    """Return the verdict on an answer or a completion: by a format, else wherever the answer stands.

    Example:
        >>> found = grade_text("So 9 * 2 = 18.\\n#### 18", "18")
        >>> found.verdict, found.verdict.read, found.where
        ('correct', '18', 'behind ####')
    """
    if fmt is not None:
        graded = grade_completion(text, gold, fmt, question=question)
        return GradedText(graded.verdict, PLACES["none" if graded.answer is None else "format"], graded)
    verdict = grade(text, gold, question=question)
    if verdict in ("correct", "wrong", "no_answer"):
        return GradedText(verdict, "the whole text" if verdict.read else "")
    same = partial(same_answer, right=lambda answer: grade(answer, gold, question=question) == "correct")
    found = find_answer(text, same, question=question)
    if not _is_completion(text, found):
        return GradedText(verdict, "the whole text")
    verdict = AMBIGUOUS if found.ambiguous else grade(found.answer, gold, question=question)
    return GradedText(verdict, PLACES[found.stop])


def _is_completion(text: str, found: Found) -> bool:
    return found.stop not in ("last", "none") or len(text) > MAX_ANSWER_CHARS or "\n" in text.strip()
