"""Verified arithmetic steps, bounded: a step earns only as part of the way to the answer that is given.

In the notebook (`reference/step_verified.py`) every line "A = B" that holds earns 0.2 beside 0.4 for the answer, so
twenty times "1 + 1 = 2" earns 4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from pydantic import Field

from mathgrpo.answers import parse_number
from mathgrpo.arithmetic import numbers_in
from mathgrpo.config.recipe import Section
from mathgrpo.rewards.reward import Pay, Row, reward
from mathgrpo.rewards.steps.claims import Claim, read_claims

StepKind = Literal["counts", "false", "repeated", "trivial", "foreign", "unused"]
CONSTANTS = frozenset(map(Fraction, (*range(1, 11), 12, 24, 30, 31, 50, 52, 60, 100, 365, 1000)))
"""Numbers that a step may use without the question naming them: small counts, dates, hours, minutes, per cent."""
_WORDS = {
    "half": ("1/2", 2), "twice": (2,), "double": (2,), "triple": (3,), "thrice": (3,), "quarter": ("1/4", 4),
    "third": ("1/3", 3), "dozen": (12,), "one": (1,), "two": (2,), "three": (3,), "four": (4,), "five": (5,),
    "six": (6,), "seven": (7,), "eight": (8,), "nine": (9,), "ten": (10,), "eleven": (11,), "twelve": (12,),
    "thirteen": (13,), "fourteen": (14,), "fifteen": (15,), "sixteen": (16,), "seventeen": (17,), "eighteen": (18,),
    "nineteen": (19,), "twenty": (20,), "thirty": (30,), "forty": (40,), "fifty": (50,), "sixty": (60,),
    "seventy": (70,), "eighty": (80,), "ninety": (90,), "hundred": (100,), "thousand": (1000,),
}  # fmt: skip
_WORD = re.compile(r"[a-z]+")


class Step(NamedTuple):
    """A claim with what became of it."""

    text: str
    kind: StepKind


class StepsSettings(Section):
    max_lines: int = Field(3, ge=1, le=50)
    """Steps that are paid at most; each pays 1 / max_lines."""
    wrong_share: float = Field(0.15, ge=0.0, le=1.0)
    """What steps pay where the answer is wrong, as a share of what they pay where it is right."""


def _steps_pay(settings: StepsSettings) -> Pay:
    return Pay(0.0, 1.0, wrong=settings.wrong_share)


@reward(family="steps", pay=_steps_pay, settings=StepsSettings())
def verified_steps(row: Row, settings: StepsSettings) -> float:
    """Return true arithmetic lines that lead to the given answer, less false ones, as a share of max_lines; wrong_share
    of it where the answer is wrong.

    Steps are counted by `check_steps`; each false one takes a true one back. wrong_share: in a group without a right
    answer that still tells who calculated, for advantages are relative to the group. No single answer: 0.

    Gaming: a detour on the way to a right answer, up to max_lines.
    Source: reference system 3, bounded.
    """
    kinds = [step.kind for step in row_steps(row)]
    counted = min(max(kinds.count("counts") - kinds.count("false"), 0), settings.max_lines)
    return counted / settings.max_lines * (1.0 if row.right else settings.wrong_share)


def row_steps(row: Row) -> list[Step]:
    """Return the steps of a completion's reasoning block."""
    given = None if row.graded.answer is None else parse_number(row.graded.answer)
    return check_steps(row.graded.reasoning or "", row.question, given)


def check_steps(reasoning: str, question: str, given: Fraction | None) -> list[Step]:
    """Return every arithmetic claim of a reasoning with its kind. Never raises.

    A true claim counts when the given answer is its result, or its result is an operand of a claim that counts; only
    the first claim with a result can, so a line written twice pays once. Its numbers must come from the question, from
    earlier results or from CONSTANTS, and not from the constants alone. A claim that only repeats one of its operands
    does not count, nor one whose result the question gives, unless it is the answer.

    Args:
        given: the answer that the completion gives, right or wrong; None: nothing counts.
    """
    claims = read_claims(reasoning)
    kinds: list[StepKind] = []
    given_numbers = _question_numbers(question)
    results: dict[Fraction, int] = {}
    for place, claim in enumerate(claims):
        kind = _kind(claim, results, given_numbers if question.strip() else None)
        kinds.append(kind)
        if kind == "unused":
            results[claim.result] = place
    for place in _leading_to(given, claims, results, given_numbers):
        kinds[place] = "counts"
    return [Step(claim.text, kind) for claim, kind in zip(claims, kinds, strict=True)]


def _kind(claim: Claim, results: dict[Fraction, int], from_question: frozenset[Fraction] | None) -> StepKind:
    """Return a claim's kind as far as it is known before the answer: "unused" for all that may yet count."""
    if not claim.true:
        return "false"
    if claim.result in results:
        return "repeated"
    if _is_trivial(claim):
        return "trivial"
    if from_question is not None:
        known = from_question | results.keys()
        if not known & set(claim.operands) or not set(claim.operands) <= known | CONSTANTS:
            return "foreign"
    return "unused"


def _is_trivial(claim: Claim) -> bool:
    """Return whether a claim only repeats one of its operands: 48 * 1, 48 + 0, 48 + 2 - 2, but not 4 / 2 = 2."""
    if claim.result not in claim.operands:
        return False
    return len(claim.operands) != 2 or any(operand in (0, 1) for operand in claim.operands)


def _leading_to(
    given: Fraction | None, claims: Sequence[Claim], results: dict[Fraction, int], from_question: frozenset[Fraction]
) -> set[int]:
    """Return the places of the claims that the given answer follows from; the question's numbers need none."""
    found: set[int] = set()
    wanted = [] if given is None or given not in results else [results[given]]
    while wanted:
        place = wanted.pop()
        if place in found:
            continue
        found.add(place)
        derived = (operand for operand in claims[place].operands if operand not in from_question)
        earlier = (results.get(operand, place) for operand in derived)
        wanted += [source for source in earlier if source < place]
    return found


def _question_numbers(question: str) -> frozenset[Fraction]:
    words = _WORD.findall(question.casefold())
    spoken = (Fraction(value) for word in words for value in _WORDS.get(word.removesuffix("s"), ()))
    return frozenset(numbers_in(question)) | frozenset(spoken)
