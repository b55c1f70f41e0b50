"""Language rewards: one script, and text that reads like text."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from mathgrpo.rewards.settings import LanguageSettings
from mathgrpo.rewards.signature import Completions, completion_texts

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


def language(
    prompts: Any,
    completions: Completions,
    settings: LanguageSettings = LanguageSettings(),  # noqa: B008  frozen
    **columns: Any,
) -> list[float]:
    """Return minus the share of letters that are in none of the settings' scripts: 0 for an English text, -1 for none.

    The language consistency reward of DeepSeek-R1 less its maximum: a group's advantages are the same.

    Range: -1 to 0.
    Gaming: another language in the same script is not seen; a text without letters costs nothing.
    Source: DeepSeek-R1, arXiv 2501.12948, section 2.3.2: the proportion of words in the target language.
    """
    return [-foreign_share(text, settings.scripts) for text in completion_texts(completions)]


def fluency(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return minus the worst of three shares: repeated lines, long runs of a character, characters that are no text.

    Lines: of two words or more, that stood before word for word. Runs: more than 8 of a character in a row. No text:
    control, private and unassigned characters, half surrogates, and the mark of broken decoding.

    Range: -1 to 0.
    Gaming: rewording a line, or changing a number in it, escapes; `repetition` sees shorter loops.
    """
    return [-max(fluency_shares(text).values()) for text in completion_texts(completions)]


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
