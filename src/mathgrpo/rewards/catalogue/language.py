"""Language rewards: one script, and text that reads like text."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from pydantic import model_validator

from mathgrpo.config.recipe import Section
from mathgrpo.rewards.reward import Pay, Row, reward

RUN = 8
"""A character repeated more often than this in a row is no writing ("-----" and "....." are)."""
_RUNS = re.compile(rf"(\S)\1{{{RUN},}}")
_NO_TEXT = frozenset(("Cc", "Co", "Cs", "Cn"))
# First words of the names of letters that are signs: fonts of mathematics, units, ordinals.
_SYMBOLS = frozenset((
    "mathematical", "script", "double-struck", "black-letter", "modifier", "micro", "ohm", "kelvin", "angstrom",
    "planck", "feminine", "masculine", "superscript", "subscript",
))  # fmt: skip
_SCRIPT_OF = {"katakana-hiragana": "katakana", "ideographic": "cjk"}
"""First word of a letter's name -> its script, where they differ: the marks of long vowels and repeated ideographs."""
_LAYOUT_CHARACTERS = frozenset("\n\r\t")
MIN_LINE_WORDS = 2


Script = Literal[
    "latin", "cyrillic", "greek", "cjk", "hiragana", "katakana", "hangul", "arabic", "hebrew", "devanagari", "bengali",
    "tamil", "telugu", "thai", "georgian", "armenian",
]  # fmt: skip


class LanguageSettings(Section):
    scripts: tuple[Script, ...] = ("latin",)
    """Scripts that the completion may use. Single Greek letters are mathematics and always allowed."""

    @model_validator(mode="after")
    def _some(self) -> LanguageSettings:
        if not self.scripts:
            raise ValueError("scripts must name at least one")
        return self


@reward(family="language", pay=Pay(-1, 0, right=-1), settings=LanguageSettings())
def language(row: Row, settings: LanguageSettings) -> float:
    """Return minus the share of letters in none of the settings' scripts.

    That reward less its maximum, 1: a group's advantages are the same. A text without letters costs nothing.

    Gaming: another language in the same script is not seen.
    Source: language consistency reward of DeepSeek-R1, arXiv 2501.12948.
    """
    return -foreign_share(row.text, settings.scripts)


@reward(family="language", pay=Pay(-1, 0, right=-1))
def fluency(row: Row) -> float:
    """Return minus the worst of three shares: repeated lines, long runs of a character, characters that are no text.

    Lines: of two words or more, that stood before word for word. Runs: more than 8 of a character in a row. No text:
    control, private and unassigned characters, half surrogates, and the mark of broken decoding.

    Gaming: rewording a repeated line, or changing a number in it.
    """
    return -max(fluency_shares(row.text).values())


def fluency_shares(text: str) -> dict[str, float]:
    """Return what `fluency` looks at, each as a share of 0 to 1."""
    lines = [words for line in text.splitlines() if len(words := line.split()) >= MIN_LINE_WORDS]
    repeated = len(lines) - len({" ".join(words) for words in lines})
    size = max(len(text), 1)
    return {
        "repeated lines": repeated / max(len(lines), 1),
        "long runs of a character": sum(len(match[0]) for match in _RUNS.finditer(text)) / size,
        "characters that are no text": sum(not _is_text(character) for character in text) / size,
    }


def foreign_share(text: str, scripts: tuple[str, ...]) -> float:
    """Return the share of letters in other scripts; a Greek letter by itself is a symbol, no letter.

    Example:
        >>> foreign_share("so 2 + 2 = 4", ("latin",)), foreign_share("ab \u4f60\u597d", ("latin",))
        (0.0, 0.5)
    """
    if text.isascii():
        own = sum(character.isalpha() for character in text)
        return 0.0 if "latin" in scripts or not own else 1.0
    names = [_script(character) for character in text]
    letters = foreign = 0
    for place, name in enumerate(names):
        if not name or (name == "greek" and _alone(names, place)):
            continue
        letters += 1
        foreign += name not in scripts
    return foreign / letters if letters else 0.0


def _alone(names: list[str], place: int) -> bool:
    return "greek" not in (names[place - 1] if place else "", names[place + 1] if place + 1 < len(names) else "")


@lru_cache(maxsize=8192)
def _script(character: str) -> str:
    """Return a letter's script, the first word of its Unicode name; "" for what is no letter or only a symbol."""
    if not unicodedata.category(character).startswith("L"):
        return ""
    words = unicodedata.name(character, "other").casefold().split()
    if words[0] in _SYMBOLS or words[-1] == "symbol":
        return ""
    return _SCRIPT_OF.get(words[0], words[0]) if words[0] != "halfwidth" else words[1]


@lru_cache(maxsize=8192)
def _is_text(character: str) -> bool:
    if character in _LAYOUT_CHARACTERS:
        return True
    return character != "\ufffd" and unicodedata.category(character) not in _NO_TEXT
