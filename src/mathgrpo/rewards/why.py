"""A reward's value in words: what was read, what was compared, what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from mathgrpo.rewards.countdown import countdown_problem
from mathgrpo.rewards.entry import Judged
from mathgrpo.rewards.language import fluency_shares, foreign_share
from mathgrpo.rewards.length import length_limit, overlong_cache, repeated_share
from mathgrpo.rewards.multi import solution_text
from mathgrpo.rewards.qwen_notebook import last_answer_text
from mathgrpo.rewards.settings import (
    CosineSettings,
    LanguageSettings,
    OverlongSettings,
    RepetitionSettings,
    StepsSettings,
)
from mathgrpo.rewards.sound import missing_marks
from mathgrpo.rewards.steps import KIND_WORDS, lines_that_hold, row_steps, think_lines

SHOWN_CHARS = 60
NO_TOKENS = "does not apply: there are no token ids"

Why = Callable[[Judged], str]


def quoted(text: str) -> str:
    """Return a text in quotes on one line, cut when long, control characters escaped."""
    short = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
    return f'"{escaped(short)}"'


def escaped(text: str) -> str:
    """Return a text on one line without control characters: what a model writes must not steer a terminal.

    Example:
        >>> escaped("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def answer(judged: Judged) -> str:
    """Say what was read as the answer, and how it compares with the gold."""
    row, graded = judged.row, judged.row.graded
    if graded.verdict == "correct":
        return f"the answer {quoted(graded.answer or '')} is the gold {quoted(row.gold)}"
    if graded.verdict == "wrong":
        return f"the answer {quoted(graded.answer or '')} is not the gold {quoted(row.gold)}"
    if graded.verdict == "no_answer":
        outside = "; a right answer is marked in another way" if judged.value else ""
        return f"no single answer in the {row.fmt.name} format ({_missing(judged)}){outside}"
    return f"the answer {quoted(graded.answer or '')} cannot be read ({graded.verdict})"


def form(judged: Judged) -> str:
    """Say how a completion keeps to the layout."""
    graded = judged.row.graded
    if graded.format_strict:
        return "exactly the asked layout"
    if graded.format_soft:
        return "both blocks in order, with other text around or between them"
    return _missing(judged)


def form_when_right(judged: Judged) -> str:
    """Say how a completion keeps to the layout, or that its answer is not right."""
    return form(judged) if judged.row.right else f"pays right answers only; {form(judged)}"


def parts(judged: Judged) -> str:
    """Say which marks stand where they should."""
    marks = judged.row.fmt.layout.marks
    missing = missing_marks(judged.row.text, marks)
    return f"{len(marks) - len(missing)} of {len(marks)} marks once and in order; {_missing(judged)}"


def _missing(judged: Judged) -> str:
    marks = judged.row.fmt.layout.marks
    missing = missing_marks(judged.row.text, marks)
    if missing:
        each = [f"{mark} {_times(judged.row.text.count(mark))}" for mark in missing]
        return ", ".join(each)
    return "every mark is there" if judged.row.graded.format_soft else "every mark is there, but a block is empty"


def _times(count: int) -> str:
    return {0: "is missing", 1: "stands before an earlier mark"}.get(count, f"stands {count} times")


def integer(judged: Judged) -> str:
    """Say whether a right answer is plain digits."""
    if judged.value is None:
        return f"does not apply: the gold {quoted(judged.row.gold)} is no integer"
    return answer(judged) + ("" if judged.value or not judged.row.right else ", but not in plain digits")


def steps(judged: Judged) -> str:
    """Say what became of each arithmetic step."""
    found = row_steps(judged.row)
    if not found:
        return "no arithmetic step (A = B) in the reasoning block"
    limit = cast(StepsSettings, judged.settings or StepsSettings()).max_lines
    counted = sum(step.kind == "counts" for step in found)
    words = "; ".join(f"{quoted(step.text)} {KIND_WORDS[step.kind]}" for step in found[:8])
    more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
    share = "" if judged.row.right else ", the answer is not right"
    return f"{counted} of {len(found)} steps count (at most {limit} pay{share}): {words}{more}"


def notebook_steps(judged: Judged) -> str:
    """Say which lines math-verify found to hold."""
    if judged.value is None:
        return f"does not apply: the gold {quoted(judged.row.gold)} begins with no number"
    lines = think_lines(judged.row.text)
    held = [line for line, holds in zip(lines, lines_that_hold(lines), strict=True) if holds]
    shown = "".join(f"; {quoted(line.strip())}" for line in held[:8])
    right = "the answer is the gold" if judged.value > 0.2 * len(held) + 0.1 else "the answer is not the gold"
    return f"{len(held)} of {len(lines)} lines between <think> tags hold, {right}{shown}"


def countdown(judged: Judged) -> str:
    """Say which constraint is broken."""
    if judged.value is None:
        return "does not apply: the problem has no column nums"
    graded, columns = judged.row.graded, judged.columns
    problem = countdown_problem(graded.answer, columns.get("nums"), columns.get("target"), judged.row.gold)
    return problem or f"{quoted(graded.answer or '')} uses each number once and makes the target"


def cosine(judged: Judged) -> str:
    """Say where on the curve a completion stands."""
    if judged.tokens is None:
        return NO_TOKENS
    settings = cast(CosineSettings, judged.settings or CosineSettings())
    limit = length_limit(settings.max_length, judged.max_new_tokens)
    curve = "a right answer" if judged.row.right else "a wrong answer"
    return f"{len(judged.tokens)} of {limit} tokens, {'over the end' if len(judged.tokens) >= limit else curve}"


def overlong(judged: Judged) -> str:
    """Say where the penalty begins."""
    if judged.tokens is None:
        return NO_TOKENS
    settings = cast(OverlongSettings, judged.settings or OverlongSettings())
    limit = length_limit(settings.max_length, judged.max_new_tokens)
    begin = limit - overlong_cache(settings, limit)
    return f"{len(judged.tokens)} tokens; the penalty begins above {begin} and is whole at {limit}"


def repetition(judged: Judged) -> str:
    """Say how much repeats."""
    if judged.tokens is None:
        return NO_TOKENS
    ngram = cast(RepetitionSettings, judged.settings or RepetitionSettings()).ngram
    return f"{repeated_share(judged.tokens, ngram):.0%} of the sequences of {ngram} tokens stood before"


def language(judged: Judged) -> str:
    """Say how many letters are foreign."""
    scripts = cast(LanguageSettings, judged.settings or LanguageSettings()).scripts
    return f"{foreign_share(judged.row.text, scripts):.0%} of the letters are not {' or '.join(scripts)}"


def fluency(judged: Judged) -> str:
    """Say which share is the worst."""
    shares = fluency_shares(judged.row.text)
    worst = max(shares, key=lambda name: shares[name])
    return f"{shares[worst]:.0%} {worst}" if shares[worst] else "no repeated lines, long runs or broken characters"


def reference_answer(judged: Judged) -> str:
    """Say what the first notebook takes as the answer."""
    return f"text taken as the answer: {quoted(last_answer_text(judged.row.text))}, gold {quoted(judged.row.gold)}"


def solution(judged: Judged) -> str:
    """Say what the multi-reward notebook's pattern captures."""
    text = solution_text(judged.row.text)
    if text is None:
        return (
            "the notebook's pattern does not match: no working-out block and solution block, each ended, at line ends"
        )
    return f"text taken as the answer: {quoted(text)}, gold {quoted(judged.row.gold)}"


def said(words: str) -> Why:
    """Return a reason that is the same for every completion."""
    return lambda judged: words
