"""What a recipe counts as correct (`evaluation.correct`): a right answer, or what a reward pays enough for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mathgrpo.errors import UserError, did_you_mean, named
from mathgrpo.rewards.checked_calls import RewardFunction
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.reward import Pay, Reward
from mathgrpo.types import Graded, Outcome, Verdict

if TYPE_CHECKING:
    from mathgrpo.rewards.suite import RewardSuite

AUTO, ANSWER = "auto", "answer"
OWN_LEAST = 1.0
"""What a user's function must pay where no threshold is given."""
_GRAMMAR = re.compile(r"(?P<name>.*?)\s*(?:(?:>=|≥)\s*(?P<least>.*))?", re.DOTALL)
_HOW = 'use "answer", or a reward of [rewards] and the least it must pay, as in "countdown >= 1"'


@dataclass(frozen=True, slots=True)
class Criterion:
    """A completion is correct when a reward pays it at least so much.

    Attributes:
        reward: its name in the suite.
        least: the threshold, on the unweighted value.

    Example:
        >>> str(Criterion("countdown", 1.0))
        'countdown >= 1'
    """

    reward: str
    least: float

    def __str__(self) -> str:
        return f"{self.reward} >= {str(self.least).removesuffix('.0')}"

    def judged(self, grades: Sequence[Graded], values: Sequence[float | None]) -> tuple[Graded, ...]:
        """Return the grades with the reward's verdict; the grader's own where the reward does not apply (None)."""
        pairs = zip(grades, values, strict=True)
        return tuple(graded if value is None else self._judged(graded, value) for graded, value in pairs)

    def _judged(self, graded: Graded, value: float) -> Graded:
        verdict = self.verdict(value, graded.answer)
        return replace(graded, verdict=verdict, flexible_verdict=verdict)

    def verdict(self, value: float, answer: str | None) -> Verdict:
        """Return the verdict on a completion with this answer that the reward pays so much for."""
        outcome: Outcome = "correct" if value >= self.least else "no_answer" if answer is None else "wrong"
        return Verdict(outcome, read=answer or "", rule="reward", why=f"{self.reward} pays {value:g}")


def criterion_of(
    setting: str, weights: Mapping[str, float], rewards: Mapping[str, Reward | RewardFunction]
) -> Criterion | None:
    """Return what `evaluation.correct` says, None where the gold answer decides.

    Without a threshold a built-in reward must pay what a right answer earns at least, a user's function 1. "auto": see
    `fitting`.

    Raises:
        UserError: no such reward, one that is not in the suite, or a threshold that the reward cannot or must reach.

    Example:
        >>> from mathgrpo.rewards import CATALOGUE
        >>> criterion_of("near_answer >= 0.5", {"near_answer": 1.0}, CATALOGUE)
        Criterion(reward='near_answer', least=0.5)
    """
    if setting.strip() == AUTO:
        return fitting(weights, rewards)
    (name, threshold), shown = _parts(setting), f'{named("evaluation.correct")}="{setting}"'
    if name == ANSWER:
        if threshold is None:
            return None
        raise UserError(f'{shown}: an answer is right or not, it takes no threshold; use "answer"')
    if name not in weights:
        raise UserError(f"{shown}: {_why_missing(name, weights)}")
    reward = rewards[name]
    pay = reward.bounds if isinstance(reward, Reward) else None
    if threshold is None:
        return Criterion(name, _default(shown, pay))
    return Criterion(name, _threshold(shown, threshold, pay))


def reward_named(setting: str) -> str:
    """Return the reward that a setting names; "" for auto and answer."""
    name = _parts(setting)[0]
    return "" if name in (AUTO, ANSWER) else name


def _parts(setting: str) -> tuple[str, str | None]:
    """Return what stands before and behind a setting's >=, None without one."""
    found = _GRAMMAR.fullmatch(setting.strip())
    assert found is not None  # every text has a name, be it empty
    return found["name"], found["least"]


def fitting(weights: Mapping[str, float], rewards: Mapping[str, Reward | RewardFunction]) -> Criterion | None:
    """Return the reward that a suite is about, None where that is the gold answer.

    That is a paid built-in reward that judges by columns of its own, such as countdown. What a user's function says of
    being right, and from which value on, only its author knows: it is never chosen.
    """
    judges = {
        name: reward.bounds
        for name, reward in rewards.items()
        if isinstance(reward, Reward) and reward.pays_right and reward.columns and weights[name] > 0
    }
    best = max(judges, key=lambda name: weights[name], default="")
    return Criterion(best, _default("", judges[best])) if best else None


def criterion_note(setting: str, suite: RewardSuite) -> str:
    """Return what a reader should know about what "auto" has chosen; "" where it is the plain case."""
    if setting != AUTO:
        return ""
    chosen, paid = suite.correct, [name for name, weight in suite.weights.items() if weight > 0]
    if chosen is not None:
        return (
            f'correct means {chosen} where {chosen.reward} applies, else a right answer; evaluation.correct="answer" '
            "counts right answers only"
        )
    own = [name for name in paid if name not in CATALOGUE]
    if not own or any(
        CATALOGUE[name].family == "answer" or not CATALOGUE[name].sound for name in paid if name not in own
    ):
        return ""
    return (
        "correct means a right answer, which no paid reward is about; to count what a reward of yours pays enough for, "
        f'set evaluation.correct, as in "{own[0]} >= 1"'
    )


def _why_missing(name: str, weights: Mapping[str, float]) -> str:
    """Return why a name cannot be counted by, and what to do."""
    there = f"in [rewards]: {', '.join(weights)}"
    if not name:
        return f"nothing given; {_HOW}; {there}"
    if name in CATALOGUE or (":" in name and not did_you_mean(name, weights)):
        key = f'"{name}"' if ":" in name else name
        return f"this reward is not in [rewards]; add rewards.{key}=0 to measure it unpaid, or {_HOW}; {there}"
    return f"no such reward{did_you_mean(name, [*weights, *CATALOGUE, ANSWER]) or ';'} {_HOW}; {there}"


def _default(shown: str, pay: Pay | None) -> float:
    """Return what a right answer earns at least; pay: the reward's, None for a user's function."""
    if pay is None:
        return OWN_LEAST
    if pay.right > pay.low:
        return pay.right
    if math.isinf(pay.high):
        raise UserError(f"{shown}: this reward pays without bound; say what a right answer earns at least, as in >= 1")
    return pay.high


def _threshold(shown: str, text: str, pay: Pay | None) -> float:
    """Return a threshold that separates completions."""
    low, high = (pay.low, pay.high) if pay is not None else (-math.inf, math.inf)
    above = f"above {low:g}" if math.isfinite(low) else ""
    most = f"at most {high:g}" if math.isfinite(high) else ""
    allowed = f"a number {' and '.join(filter(None, (above, most)))}".strip()
    try:
        least = float(text)
    except ValueError:
        least = math.nan
    if not math.isfinite(least):
        raise UserError(f'{shown}: the threshold "{text}" is no number; use {allowed}, as in ">= 1"')
    if not low < least <= high:
        pays = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} and more"
        raise UserError(f"{shown}: this reward pays {pays}, so the threshold tells nothing apart; use {allowed}")
    return least
