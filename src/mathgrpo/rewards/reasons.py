"""Why each built-in reward pays what it pays, in words: beside the rewards, since training never asks."""

from __future__ import annotations

from collections.abc import Callable

from mathgrpo.rewards.catalogue.countdown import row_problem
from mathgrpo.rewards.catalogue.language import LanguageSettings, fluency_shares, foreign_share
from mathgrpo.rewards.catalogue.length import CosineSettings, OverlongSettings, RepetitionSettings, repeated_share
from mathgrpo.rewards.catalogue.partial_credit import missing_marks
from mathgrpo.rewards.catalogue_page import pays
from mathgrpo.rewards.reference.gist_and_multi import solution_text
from mathgrpo.rewards.reference.qwen_notebook import last_answer_text
from mathgrpo.rewards.reference.step_verified import lines_that_hold, think_lines
from mathgrpo.rewards.reward import Reward, Row
from mathgrpo.rewards.steps.verified import StepsSettings, row_steps
from mathgrpo.text import quoted

MAX_SHOWN = 8
"""Steps or lines of a completion that a reason names."""


def reason(reward: Reward, row: Row, value: float | None) -> str:
    """Return why a completion earns this value; where there are no words for it, what the reward pays for."""
    if reward.needs_tokens and row.token_ids is None:
        return "does not apply: there are no token ids"
    words = REASONS.get(reward.name)
    return pays(reward) if words is None else words(row, value, *reward.own)


def _answer(row: Row, value: float | None) -> str:
    """Say what was read as the answer, and how it compares with the gold."""
    given, gold = quoted(row.graded.answer or ""), quoted(row.gold)
    if row.graded.verdict == "no_answer":
        outside = "; a right answer is marked in another way" if value else ""
        return f"no single answer in the {row.fmt.name} format ({_missing(row)}){outside}"
    if row.graded.answer is None:
        return f"no single answer in the {row.fmt.name} format: {row.graded.verdict.why}"
    if row.graded.verdict not in ("correct", "wrong"):
        return f"the answer {given} is {row.graded.verdict}: {row.graded.verdict.why}"
    why = "" if row.graded.verdict.rule == "number" else f": {row.graded.verdict.why}"
    return f"the answer {given} is {'' if row.right else 'not '}the gold {gold}{why}"


def _integer(row: Row, value: float | None) -> str:
    if value is None:
        return f"does not apply: the gold {quoted(row.gold)} is no integer"
    return _answer(row, value) + ("" if value or not row.right else ", but not in plain digits")


def _form(row: Row, value: float | None) -> str:
    if row.graded.format_strict:
        return "exactly the asked layout"
    if row.graded.format_soft:
        return "both blocks in order, with other text around or between them"
    return _missing(row)


def _form_when_right(row: Row, value: float | None) -> str:
    return _form(row, value) if row.right else f"pays right answers only; {_form(row, value)}"


def _parts(row: Row, value: float | None) -> str:
    marks = row.fmt.marks
    there = len(marks) - len(missing_marks(row.whole, marks))
    return f"{there} of {len(marks)} marks once and in order; {_missing(row)}"


def _missing(row: Row) -> str:
    """Return in words which of the format's marks do not stand where they should."""
    missing = missing_marks(row.whole, row.fmt.marks)
    if not missing:
        return "every mark is there" if row.graded.format_soft else "every mark is there, but a block is empty"
    times = {0: "is missing", 1: "stands before an earlier mark"}
    counts = {mark: row.whole.count(mark) for mark in missing}
    return ", ".join(f"{mark} {times.get(count, f'stands {count} times')}" for mark, count in counts.items())


def _countdown(row: Row, value: float | None) -> str:
    if value is None:
        return "does not apply: the problem has no column nums"
    return row_problem(row) or f"{quoted(row.graded.answer or '')} uses each number once and makes the target"


def _language(row: Row, value: float | None, settings: LanguageSettings) -> str:
    return f"{foreign_share(row.text, settings.scripts):.0%} of the letters are not {' or '.join(settings.scripts)}"


def _fluency(row: Row, value: float | None) -> str:
    shares = fluency_shares(row.text)
    worst = max(shares, key=lambda name: shares[name])
    return f"{shares[worst]:.0%} {worst}" if shares[worst] else "no repeated lines, long runs or broken characters"


def _cosine(row: Row, value: float | None, settings: CosineSettings) -> str:
    length, limit = len(row.token_ids or ()), settings.limit(row.max_new_tokens)
    curve = "a right answer" if row.right else "a wrong answer"
    return f"{length} of {limit} tokens, {'over the end' if length >= limit else curve}"


def _overlong(row: Row, value: float | None, settings: OverlongSettings) -> str:
    begin, limit = settings.begin(row.max_new_tokens), settings.limit(row.max_new_tokens)
    return f"{len(row.token_ids or ())} tokens; the penalty begins above {begin} and is whole at {limit}"


def _repetition(row: Row, value: float | None, settings: RepetitionSettings) -> str:
    share = repeated_share(row.token_ids or (), settings.ngram)
    return f"{share:.0%} of the sequences of {settings.ngram} tokens stood before"


_KINDS: dict[str, str] = {
    "counts": "true, and the answer follows from it",
    "false": "false",
    "repeated": "true, but its result was there before",
    "trivial": "true, but its result is one of its own numbers",
    "foreign": "true, but its numbers come neither from the question nor from earlier steps",
    "unused": "true, but the answer does not follow from it",
}


def _steps(row: Row, value: float | None, settings: StepsSettings) -> str:
    found = row_steps(row)
    if not found:
        return "no arithmetic step (A = B) in the reasoning block"
    counted = sum(step.kind == "counts" for step in found)
    words = "; ".join(f"{quoted(step.text)} {_KINDS[step.kind]}" for step in found[:MAX_SHOWN])
    more = f"; and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    share = "" if row.right else ", the answer is not right"
    return f"{counted} of {len(found)} steps count (at most {settings.max_lines} pay{share}): {words}{more}"


def _notebook_answer(row: Row, value: float | None) -> str:
    return f"text taken as the answer: {quoted(last_answer_text(row.text))}, gold {quoted(row.gold)}"


def _notebook_solution(row: Row, value: float | None) -> str:
    text = solution_text(row.text)
    if text is None:
        return (
            "the notebook's pattern does not match: no working-out block and solution block, each ended, at line ends"
        )
    return f"text taken as the answer: {quoted(text)}, gold {quoted(row.gold)}"


def _notebook_lines(row: Row, value: float | None) -> str:
    if value is None:
        return f"does not apply: the gold {quoted(row.gold)} begins with no number"
    lines = think_lines(row.text)
    held = [line for line, holds in zip(lines, lines_that_hold(lines), strict=True) if holds]
    shown = "".join(f"; {quoted(line.strip())}" for line in held[:MAX_SHOWN])
    right = "the answer is the gold" if value > 0.2 * len(held) + 0.1 else "the answer is not the gold"
    return f"{len(held)} of {len(lines)} lines between <think> tags hold, {right}{shown}"


REASONS: dict[str, Callable[..., str]] = {
    "correct": _answer,
    "integer": _integer,
    "near_answer": _answer,
    "format": _form_when_right,
    "format_always": _form,
    "format_parts": _parts,
    "countdown": _countdown,
    "language": _language,
    "fluency": _fluency,
    "cosine": _cosine,
    "soft_overlong": _overlong,
    "repetition": _repetition,
    "verified_steps": _steps,
    "reference_correctness": _notebook_answer,
    "reference_integer": _notebook_answer,
    "multi_format_exactly": _notebook_solution,
    "multi_answer_correctness": _notebook_solution,
    "step_verified_reference": _notebook_lines,
}
"""Reward name -> (row, value) or, of a reward with settings, (row, value, settings) -> the value in words."""
