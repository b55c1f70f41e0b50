"""Model text made safe to show, and numbers made easy to read."""

from __future__ import annotations

import math
import re

from mathgrpo.text import MINUS

HEAD_CHARACTERS, TAIL_CHARACTERS = 1600, 400
"""What is shown of a long text: its beginning, and its end, where the answer stands."""

# Terminal sequences go whole, so that no "[31m" stays; then every control character but newline and tab, the marks that
# reorder or hide text (bidirectional overrides, zero-width characters), and half surrogates, which no file can hold.
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,400}(?:\x07|\x1b\\)?|[@-_])")
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060\u2066-\u2069\ufeff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return text without terminal sequences, control characters and invisible reordering marks.

    HTML characters stay as they are: the page's templates escape them.

    Example:
        >>> clean("\\x1b[31m7\\x00 < 8\\x1b[0m")
        '7 < 8'
    """
    return _SURROGATE.sub("\ufffd", _HIDDEN.sub("", _TERMINAL.sub("", text.replace("\r\n", "\n"))))


def shorten(text: str, head: int = HEAD_CHARACTERS, tail: int = TAIL_CHARACTERS) -> str:
    """Return clean text, with a note in the place of its middle when it is longer than head + tail characters.

    Example:
        >>> shorten("abcdefghij", head=3, tail=2)
        'abc\\n[… 5 characters left out …]\\nij'
    """
    # Only what can be shown is cleaned: the cost does not grow with the text.
    if len(text) <= head + tail:
        return clean(text)
    left_out = len(text) - head - tail
    return f"{clean(text[:head])}\n[… {left_out:,} characters left out …]\n{clean(text[len(text) - tail :])}"


def brief(text: str, most: int = 40) -> str:
    """Return clean text on one line, cut with an ellipsis: names, answers, labels.

    Example:
        >>> brief("one\\ntwo three", 9)
        'one two …'
    """
    words = " ".join(clean(text[: 4 * most]).split())
    return words if len(words) <= most and len(text) <= 4 * most else words[: most - 1] + "…"


def percent(share: float | None, decimals: int = 1) -> str:
    """Return a share as a percentage that does not break across lines, "63.8 %"; a dash for none."""
    if share is None or not math.isfinite(share):
        return "\N{EN DASH}"
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%".replace("-", MINUS)


def unbroken(line: str) -> str:
    """Return a line whose numbers stay with their signs when it is broken: "63.8 %", "p < 0.001"."""
    return re.sub(r" %| (?=[<=] )|(?<=[<=]) ", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), line)
