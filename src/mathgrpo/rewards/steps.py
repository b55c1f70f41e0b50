"""Rewards for verified arithmetic steps: the bounded one to train with, and the notebook's own.

In the notebook every line "A = B" that holds earns 0.2 beside 0.4 for the answer, so twenty times "1 + 1 = 2" earns 4.
Here a step earns only as part of the way to the answer that is given: see `check_steps`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from mathgrpo.answers import parse_number
from mathgrpo.answers.latex import arithmetic_line_verdict
from mathgrpo.rewards.claims import Claim, numbers_in, read_claims
from mathgrpo.rewards.graded_rows import Row, graded_rows
from mathgrpo.rewards.settings import StepsSettings
from mathgrpo.rewards.signature import Completions, completion_texts

StepKind = Literal["counts", "false", "repeated", "trivial", "foreign", "unused"]
KIND_WORDS: dict[str, str] = {
    "counts": "true, and the answer follows from it",
    "false": "false",
    "repeated": "true, but its result was there before",
    "trivial": "true, but its result is one of its own numbers",
    "foreign": "true, but its numbers come neither from the question nor from earlier steps",
    "unused": "true, but the answer does not follow from it",
}
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
_ANSWER_DIGITS = re.compile(r"<answer>(\d+)</answer>")
_GOLD_DIGITS = re.compile(r"\s*([-+]?\d+)")
MAX_TIMEOUTS = 2
"""Lines of one completion that may run into the grader's wall limit before the rest earns nothing."""
MAX_TRIED_LINES = 1000
"""Lines of one completion that are put to math-verify, at a millisecond each; the rest earns nothing."""


class Step(NamedTuple):
    """A claim with what became of it."""

    text: str
    kind: StepKind


def verified_steps(
    prompts: Any,
    completions: Completions,
    answer: Sequence[str],
    settings: StepsSettings = StepsSettings(),  # noqa: B008  frozen
    **columns: Any,
) -> list[float]:
    """Return verified steps on the way to the given answer, as a share of max_lines; little where the answer is wrong.

    Steps are counted by `check_steps`; each false one takes a true one back. A right answer in the format's answer
    block earns the whole share, a wrong one wrong_share of it (0.15): in a group without a right answer that still
    tells who calculated, for advantages are relative to the group. No single answer: 0.

    Range: 0 to 1.
    Gaming: a detour on the way to a right answer earns as much as a needed step, up to max_lines.
    """
    rows = graded_rows(completions, answer, **columns)
    return [_share(row, settings) for row in rows]


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


def _share(row: Row, settings: StepsSettings) -> float:
    kinds = [step.kind for step in row_steps(row)]
    counted = min(max(kinds.count("counts") - kinds.count("false"), 0), settings.max_lines)
    return counted / settings.max_lines * (1.0 if row.right else settings.wrong_share)


def step_verified_reference(
    prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any
) -> list[float | None]:
    """Return the notebook's reward: 0.2 for each line of the think block that holds, 0.4 for the answer.

    A line holds when math-verify finds both sides of its first "=" equal (in the killable child process here). The
    answer must be all digits; of the gold, as in the notebook, only the whole number it begins with is compared
    ("1,200" is 1). None where the gold begins with no number: the notebook drops such problems.

    Range: 0 upwards, without bound.
    Gaming: any number of true and useless lines; they pay more than the answer from the third on.
    """
    texts = completion_texts(completions)
    return [_notebook_score(text, gold) for text, gold in zip(texts, answer, strict=True)]


def think_lines(text: str) -> list[str]:
    """Return the lines of the first think block, none without one."""
    _, opening, rest = text.partition("<think>")
    inner, closing, _ = rest.partition("</think>")
    return inner.splitlines() if opening and closing else []


def _notebook_score(text: str, gold: str) -> float | None:
    number = _GOLD_DIGITS.match(gold)
    if number is None:
        return None
    # Added up in the notebook's order, so that even the rounding is the same.
    score = 0.0
    for holds in lines_that_hold(think_lines(text)):
        score += 0.2 if holds else 0.0
    answer = _ANSWER_DIGITS.search(text)
    same = answer is not None and len(answer[1]) < 600 and int(answer[1]) == int(number[1])
    return score + 0.4 if same else score


def lines_that_hold(lines: Iterable[str]) -> list[bool]:
    """Return for each line whether math-verify finds both sides of its first "=" equal."""
    held, timeouts, tried = [], 0, 0
    for line in lines:
        may = "=" in line and timeouts < MAX_TIMEOUTS and tried < MAX_TRIED_LINES
        verdict = arithmetic_line_verdict(line) if may else "wrong"
        tried += may
        timeouts += verdict == "timeout"
        held.append(verdict == "correct")
    return held
