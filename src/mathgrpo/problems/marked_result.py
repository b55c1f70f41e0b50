r"""The result that a worked solution marks: its last \boxed{}, GSM8K's ####, or a last line "The answer is: ..."."""

from __future__ import annotations

import re

from mathgrpo.arithmetic import plain_number
from mathgrpo.problems.worked import clean_solution, split_answer

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")
_SAID = re.compile(r"\b[Tt]he (?:final |correct )?answer is:?[ \t]+([^\n]{1,300}?)\.?\s*\Z")
_LOOKS = re.compile(r"\\[,;:!]|\\(?:left|right|displaystyle)(?![a-zA-Z])|[\s$]|\.$")
_BRACKET = re.compile(r"\\.|[{}]", re.DOTALL)
_MOST_BOXES = 50
MARKS = '\\boxed{...}, ####, "The answer is ..."'


def marked_result(text: str) -> tuple[str, str | None] | None:
    r"""Return the marked result and the solution, None without a mark. The solution is None when nothing else is there.

    Several marks must say the same. Of several boxes the last one counts, as MATH's own grader reads its solutions.

    Raises: ValueError that names two marks that differ.

    Example:
        >>> marked_result(r"So it is $\boxed{\frac{1}{2}}$.")
        ('\\frac{1}{2}', 'So it is $\\boxed{\\frac{1}{2}}$.')
        >>> marked_result("2 pens cost $6.\n#### 6\nThe answer is: 6")
        ('6', '2 pens cost $6.')
    """
    found: dict[str, str] = {}
    said = _SAID.search(text)
    body = text[: said.start()].rstrip() if said else text
    solution: str | None = clean_solution(body) or None
    if cut := split_answer(body):
        found[f"#### {cut[0]}"], solution = cut
    if box := last_box(text):
        found[f"\\boxed{{{box}}}"] = box
        if not cut and len(body.strip(" $.")) <= len(box) + len("\\boxed{}"):
            solution = None
    if said:
        inner = last_box(said[1]) or said[1].strip("$* ")
        found[f"The answer is {inner}"] = inner
    marks = list(found)
    for mark in marks[1:]:
        if not _same(found[marks[0]], found[mark]):
            raise ValueError(f"two results that differ, {_brief(marks[0])} and {_brief(mark)}, in")
    return (found[marks[0]], solution) if marks else None


def result_of(text: str) -> tuple[str, str | None] | None:
    """Return `marked_result`, and None where two marks differ too."""
    try:
        return marked_result(text)
    except ValueError:
        return None


def last_box(text: str) -> str:
    r"""Return what stands in the last \boxed{} (or \fbox{}) that closes and holds something; "" without one.

    Example:
        >>> last_box(r"\boxed{\frac{1}{2}} and \boxed{3"), last_box(r"\boxed 5")
        ('\\frac{1}{2}', '5')
    """
    for opening in list(_BOX.finditer(text))[:-_MOST_BOXES:-1]:
        inside = _balanced(text, opening.end()) if opening[0].endswith("{") else text[opening.end()]
        if inside.strip():
            return inside.strip()
    return ""


def _balanced(text: str, start: int) -> str:
    """Return the text up to the bracket that closes, "" without one."""
    depth = 1
    for place in _BRACKET.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(place[0], 0)
        if not depth:
            return text[start : place.start()]
    return ""


def is_prose(text: str) -> bool:
    """Return whether a text is too long, or has too many words, to be an answer itself.

    Example:
        >>> is_prose("She buys six pens. Each costs two pounds, so she pays twelve pounds."), is_prose("6 pens")
        (True, False)
    """
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\text\{[^{}]*\}", "", text))
    return len(words) >= 12 or len([line for line in text.splitlines() if line.strip()]) > 2


def _same(one: str, other: str) -> bool:
    """Return whether two marks say the same, spacing and LaTeX's looks aside."""
    first, second = (plain_number(_LOOKS.sub("", each)) for each in (one, other))
    if first is not None and second is not None:
        return first == second
    return _looks(one) == _looks(other)


def _looks(text: str) -> str:
    inner = re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}", r"\1", text.replace("dfrac", "frac").replace("tfrac", "frac"))
    return _LOOKS.sub("", inner).strip("()").lower()


def _brief(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[:most] + "…"
