"""What a question asks for: a percentage, a unit, a scale ("in thousands"), a base."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from mathgrpo.answers.units import SCALES, Unit, known, stem

_STOP = re.compile(r"[.?!]+[)\"'”’\]]*\s+(?=\S)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"])(?:[A-Z]|Mrs?|Ms|Dr|St|Jr|Sr|Prof|Rev|Gen|Col|Capt|Lt|Sgt|No|Nos|vs|etc|e\.g|i\.e|approx|ave|dept"
    r"|inc|ltd|co|est|fig|eq|a\.m|p\.m|U\.S|ft|in|lbs?|oz|hrs?|mins?|secs?)\.$",
    re.IGNORECASE,
)
_NUMERALS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    "|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|half a"
)
_PERCENT = re.compile(
    rf"(?P<number>(?:[0-9}}][\s$]*|\b(?:{_NUMERALS})[\s-]+))?(?:\bpercent(?:age)?s?\b|\bper\s?cent\b|\\?%)",
    re.IGNORECASE,
)
_AS_PERCENT = re.compile(
    r"\b(?:as|in|to)\s+(?:an?\s+|the\s+)?(?:[a-z]+\s+){0,3}(?:percent(?:age)?s?\b|per\s?cent\b|\\?%)", re.IGNORECASE
)
_HOW_MANY = re.compile(r"\bhow\s+(?:many|much)\s+(?!percent|per\s?cent|\\?%)", re.IGNORECASE)
_ASKED = re.compile(
    r"\bhow many (?:more |fewer |less |total |additional |whole |full )?((?:square |cubic )?[a-z]+)"
    r"|\b(?:in|to the nearest|number of) ((?:square |cubic )?[a-z]+)",
    re.IGNORECASE,
)
_UNIT_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]{2,}(?![A-Za-z])|[$£€¥₹¢°]|(?<=[0-9] )[A-Za-z](?![A-Za-z])", re.ASCII)
_BASE = re.compile(r"\bbase[\s-]*(?:\$?\s*)?([0-9]{1,2}|[a-z]+)", re.IGNORECASE)
BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
              "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip


@lru_cache(maxsize=1024)
def asking_part(question: str) -> str:
    """Return a question from its last sentence with "?" to its end; without one, its last sentence.

    Example:
        >>> asking_part("It is 20% of it. What percent does Mr. Hill earn? (Round it.)")
        'What percent does Mr. Hill earn? (Round it.)'
    """
    text, starts = question.strip(), [0]
    for match in _STOP.finditer(text):
        stop = text[: match.end()].rstrip().rstrip(")\"'”’]")
        if not _ABBREVIATION.search(stop[-12:]):
            starts.append(match.end())
    for start, end in zip(reversed(starts), [len(text), *reversed(starts[1:])], strict=True):
        if "?" in text[start:end]:
            return text[start:]
    return text[starts[-1] :]


def asks_percentage(question: str) -> bool:
    """Return whether a question asks for a percentage ("20% off" does not ask).

    Example:
        >>> asks_percentage("He ate 3 of 4. What percent did he eat?"), asks_percentage("What is 20% of 5?")
        (True, False)
    """
    asking = asking_part(question)
    if _AS_PERCENT.search(asking) and any(not match["number"] for match in _PERCENT.finditer(asking)):
        return True
    return not _HOW_MANY.search(asking) and any(not match["number"] for match in _PERCENT.finditer(asking))


@lru_cache(maxsize=1024)
def asked_unit(question: str) -> Unit | None:
    """Return the unit of the table that a question asks for by name ("how many cents", "in dollars"), None for none.

    Example:
        >>> asked_unit("How many cents did he pay?")
        {'dollar': (1, Fraction(1, 100))}
    """
    found = None
    for match in _ASKED.finditer(asking_part(question)):
        words = (match[1] or match[2]).split()
        entry = known(words[-1]) if len(words[-1]) > 1 else None
        if entry:
            base, power, worth = entry
            times = {"square": 2, "cubic": 3}.get(words[0].casefold(), 1)
            found = {base: (power * times, worth**times)}
    return found


@lru_cache(maxsize=1024)
def asked_scale(question: str) -> frozenset[str]:
    """Return the scale words that a question asks in ("how many dozen", "in thousands"), as stems."""
    words = ((match[1] or match[2]).split()[-1].casefold() for match in _ASKED.finditer(asking_part(question)))
    return frozenset(stem(word) for word in words if word in SCALES)


def counts(question: str) -> bool:
    """Return whether a question asks how many of something there are."""
    return re.search(r"\bhow many\b", asking_part(question), re.IGNORECASE) is not None


@lru_cache(maxsize=1024)
def mentioned_units(question: str) -> tuple[tuple[str, int, Fraction], ...]:
    """Return the units of the table that a question speaks of, each as base, power and worth."""
    return tuple({entry for match in _UNIT_WORD.finditer(question) if (entry := known(match[0]))})


def asked_base(question: str) -> int | None:
    """Return the base in which a question wants a number, None when it speaks of none.

    Example:
        >>> asked_base("Write 42 in base 8."), asked_base("What is the base of the triangle?")
        (8, None)
    """
    found = _BASE.findall(asking_part(question))
    if not found:
        return None
    word = found[-1].casefold()
    return int(word) if word.isdigit() else BASE_WORDS.get(word)
