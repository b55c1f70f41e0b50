"""What some data sets keep beside the question and a reader needs: the options to choose from, the numbers left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mathgrpo.problems.cells import answer_text, cell, loaded
from mathgrpo.problems.known_columns import OPTIONS, in_table

LETTERS = "ABCDEFGHIJ"
_LETTERED = re.compile(r"\s*[\[(]?\s*([A-Ja-j])\s*[)\].:]\s*(\S.*)", re.DOTALL)
_GAP = re.compile(r"\b(?:N_|number|temp_)(\d{1,2})\b")
"""A number's place in a question, as in "Tom has N_00 apples" (MAWPS)."""


def completed(question: str, gold: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return question and gold, the options below the question where the gold is the letter or the number of one.

    Numbers that a question only has the places of are put in, from the column `numbers`.

    Raises: ValueError in words where a number may be an option or its place.

    Example:
        >>> completed("Which is even?", "B", {"options": ["A)1", "B)2"]})
        ('Which is even?\\n(A) 1\\n(B) 2', 'B')
        >>> completed("Tom has N_00 pens.", "3", {"Numbers": "3.0 1.0"})[0]
        'Tom has 3 pens.'
    """
    question = _with_numbers(question, values)
    options = next((found for name in OPTIONS if (found := _options(values, name))), {})
    if not options or next(iter(options.values())) in question.split("\n", 1)[-1]:
        return question, gold
    letter = gold.strip("() .").upper()
    if letter.isdecimal():
        if gold in options.values():
            raise ValueError(f"{gold}, which may be an option or the place of one, in")
        letter = LETTERS[int(letter)] if int(letter) < len(options) else ""
    if letter not in options:
        return question, gold
    return "\n".join([question, *(f"({name}) {text}" for name, text in options.items())]), letter


def _options(values: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return letter -> option of a list ("A)21" or "21"), of {"label": [...], "text": [...]} or of a text with both."""
    column = in_table(name, map(str, values))
    held = cell(values, column) if column else None
    if isinstance(held, Mapping):
        texts, labels = held.get("text"), held.get("label", LETTERS)
        if not isinstance(texts, list) or not isinstance(labels, list | str):
            return {}
        return {str(label): str(text) for label, text in zip(labels, texts, strict=False)}
    if isinstance(held, str):
        held = loaded(held) if held.startswith('["') else re.split(r"\s*,\s*(?=[a-j]\s*\))", held)
    if not isinstance(held, list | tuple) or not 2 <= len(held) <= len(LETTERS):
        return {}
    lettered = [_LETTERED.fullmatch(str(each)) for each in held]
    if all(lettered):
        return {found[1].upper(): found[2].strip() for found in lettered if found}
    return dict(zip(LETTERS, (str(each).strip() for each in held), strict=False))


def _with_numbers(question: str, values: Mapping[str, Any]) -> str:
    """Return the question with its numbers put in; as it is where the row has fewer than it asks for."""
    column = in_table("numbers", map(str, values))
    if not column or not _GAP.search(question):
        return question
    held = values[column]
    given = held.split() if isinstance(held, str) else held if isinstance(held, list | tuple) else []
    try:
        numbers = [answer_text({"": _plain(each)}, "") for each in given]
    except ValueError:
        return question
    places = {int(place) for place in _GAP.findall(question)}
    if not places or max(places) >= len(numbers):
        return question
    return _GAP.sub(lambda found: numbers[int(found[1])], question)


def _plain(number: Any) -> Any:
    """Return "3.0" as 3, and everything else as it is."""
    try:
        return float(number)
    except (TypeError, ValueError):
        return number
