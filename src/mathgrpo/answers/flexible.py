"""The answer of a completion wherever it stands: for evaluation ("flexible" accuracy), never paid as such.

Order: answer tags of any format; else \\boxed{}; else ####; else "answer is"/"answer:"; else the last number. At each
of the first three stops several differing answers are no answer. Every search is linear in the length of the text.
"""

from __future__ import annotations

import re

from mathgrpo.answers.numbers import parse_number
from mathgrpo.arithmetic.number_grammar import NUMBER_LIKE
from mathgrpo.formats.layouts import box_contents

_TAGS = (("<answer>", "</answer>"), ("<SOLUTION>", "</SOLUTION>"))
_HASHES = re.compile(r"####+[ \t]*([^\n#]*)")
_SAYS = re.compile(r"\banswer(?: is|:)(?:\*\*)?:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|\*|$)")
_SIGNED = r"(?:(?<![0-9A-Za-z_)%])[+\-\u2212])?\\?[$£€]?[+\-\u2212]?"
_RUN = re.compile(
    rf"(?<![0-9A-Za-z_.,]){_SIGNED}(?:{NUMBER_LIKE}|\.[0-9]+)(?: [0-9]+/[0-9]+)?"
    rf"(?: ?[-+*/^×÷\u2212] ?{NUMBER_LIKE})*(?:\\?%)?",
    re.ASCII,
)
MAX_SAID_CHARS = 200
MAX_MARKS = 1000
"""Answer marks read in one completion; a text with more of them has no answer."""


def flexible_answer(text: str) -> str | None:
    """Return the answer of a completion wherever it stands, None when there is none or several differ.

    Example:
        >>> flexible_answer("So 9 * 2 = 18.\\n#### 18"), flexible_answer("\\\\boxed{18} or \\\\boxed{19}")
        ('18', None)
    """
    for marked in (tagged_answers(text), box_contents(text), hash_answers(text)):
        if marked:
            return _agreed(marked)
    said = _said_answer(text)
    if said is not None:
        return said or None
    numbers = _runs(text)
    return numbers[-1] if numbers else None


def tagged_answers(text: str) -> list[str]:
    """Return what stands in answer tags of any format."""
    found: list[str] = []
    for opening, closing in _TAGS:
        for piece in text.split(opening, MAX_MARKS + 1)[1:]:
            inner, end, _ = piece.partition(closing)
            found += [inner.strip()] if end else []
    return found


def hash_answers(text: str) -> list[str]:
    """Return what follows each #### on its line."""
    return [match[1].strip() for match in _HASHES.finditer(text)]


def _agreed(answers: list[str]) -> str | None:
    """Return the one answer that all of these are, by value; None if they differ or are too many."""
    if len(answers) > MAX_MARKS:
        return None
    first = answers[0]
    value = parse_number(first)
    same = all(other == first or (value is not None and parse_number(other) == value) for other in answers)
    return first if same and first else None


def _said_answer(text: str) -> str | None:
    """Return the number after the last "answer is" or "answer:"; "" if several are, None if none is."""
    start = -1
    for match in _SAYS.finditer(text):
        start = match.end()
    if start < 0:
        return None
    line = text[start : start + MAX_SAID_CHARS].lstrip().partition("\n")[0]
    end = _SENTENCE_END.search(line)
    sentence = (line[: end.start()] if end else line).strip().rstrip("*").strip()
    if parse_number(sentence) is not None:
        return sentence
    numbers = _runs(sentence.rpartition("=")[2])
    return (numbers[0] if len(numbers) == 1 else "") if numbers else None


def _runs(text: str) -> list[str]:
    """Return the numbers of a text in order, each with the sums and quotients it is an operand of ("8-3" is one)."""
    return [match[0].rstrip(", ") for match in _RUN.finditer(text)]
