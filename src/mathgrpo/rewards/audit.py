"""A reward suite put to the test: what right answers, near misses, tricks and the model's own completions earn.

Sound is a suite under which no completion with a wrong answer, or none, earns as much as a right answer in the asked
format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mathgrpo.formats.chat import problem_messages
from mathgrpo.formats.thinking import behind
from mathgrpo.rewards.probes import IN_FORM, Probe, probes, right_answers
from mathgrpo.rewards.suite import RewardSuite, Scores, columns_of
from mathgrpo.text import number
from mathgrpo.types import Problem

TokenIds = Callable[[str], Sequence[int]]
Own = tuple[Problem, str]
"""A completion of the model, behind its problem."""
OWN_WRONG, OWN_RIGHT = "the model's own, wrong", "the model's own, right"
CLOSE = 1e-9
"""Totals nearer than this are the same."""


@dataclass(frozen=True, slots=True)
class Earned:
    """What one completion earned.

    Attributes:
        problem, probe: what was scored.
        total: its weighted total; NaN where no reward applies.
        parts: reward name -> unweighted value.
    """

    problem: Problem
    probe: Probe
    total: float
    parts: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Exploit:
    """A completion that earns as much as a right one of its problem, or more, and is not right.

    Attributes:
        wrong: it.
        right: the least that a right answer in the asked format earns.
    """

    wrong: Earned
    right: Earned


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        problems: how many were tried.
        earned: every completion tried that a reward applies to.
        exploits: those that break the suite, the most paid first.
        unpaid: right answers in the asked format that earn no more than saying nothing: golds that the rewards do not
            read, one a problem.
    """

    problems: int
    earned: tuple[Earned, ...]
    exploits: tuple[Exploit, ...]
    unpaid: tuple[Earned, ...]

    @property
    def sound(self) -> bool:
        """No wrong answer earns as much as a right one."""
        return not self.exploits

    def by_kind(self) -> dict[str, list[Earned]]:
        """Return what was tried by kind, the best paid kind first."""
        kinds: dict[str, list[Earned]] = {}
        for each in self.earned:
            kinds.setdefault(each.probe.kind, []).append(each)
        return dict(sorted(kinds.items(), key=lambda item: -max(each.total for each in item[1])))

    def line(self) -> str:
        """Return the outcome in a line."""
        wrong = [each for each in self.earned if each.probe.right is False]
        right = [each for each in self.earned if each.probe.right]
        tried = f"{len(wrong)} completions without a right answer, on {self.problems} problems"
        if not right or not wrong:
            return "rewards not audited: what a right answer to these problems earns is not known"
        if self.sound:
            least, most = min(e.total for e in right), max(e.total for e in wrong)
            earned = f"right answers in the format earn {number(least)} at least"
            return f"rewards audited: {earned}, {tried}, {number(most)} at most"
        worst = self.exploits[0]
        more = "more than" if worst.wrong.total > worst.right.total + CLOSE else "as much as"
        return (
            f"rewards NOT SOUND: {worst.wrong.probe.kind!r} earns {number(worst.wrong.total)}, {more} the right "
            f"answer's {number(worst.right.total)} ({len(self.exploits)} of {tried}); see mathgrpo audit"
        )


def audit(
    suite: RewardSuite,
    problems: Sequence[Problem],
    token_ids: TokenIds | None = None,
    own: Sequence[Own] = (),
    opened: str = "",
) -> Audit:
    """Return what the rewards of a suite, a user's own included, pay on these problems; each is called once.

    Args:
        token_ids: text -> token ids, for rewards that need them.
        own: completions of the model; what the suite counts as correct says which of them are right.
        opened: what the prompts have begun of every completion, see `Prompt`; the completions tried go on from there.

    Raises:
        UserError: a reward raises or returns no number.
    """
    asked = [
        (problem, answer, probe)
        for problem in problems
        for answer in right_answers(problem)
        for probe in probes(problem, answer, suite.fmt)
    ]
    texts = [behind(opened, probe.text) for *_, probe in asked] + [text for _, text in own]
    of = [problem for problem, *_ in asked] + [problem for problem, _ in own]
    scores = _scored(suite, of, texts, token_ids, opened)
    tried = [
        Earned(problem, _known(probe, suite, is_right(scores, i)), *_paid(scores, i))
        for i, (problem, _, probe) in enumerate(asked)
    ]
    theirs = [
        Earned(problem, _own_probe(text, is_right(scores, i)), *_paid(scores, i))
        for i, (problem, text) in enumerate(own, start=len(asked))
    ]
    answers = _best_answers(asked, tried)
    kept = [each for (problem, answer, _), each in zip(asked, tried, strict=True) if answers[problem.id] == answer]
    kept = [each for each in (*kept, *theirs) if not math.isnan(each.total)]
    return Audit(len(problems), tuple(kept), *_judged(kept))


def is_right(scores: Scores, place: int) -> bool:
    """Return whether a completion's one final answer is right."""
    return scores.grades[place].verdict == "correct"


def _known(probe: Probe, suite: RewardSuite, judged_right: bool) -> Probe:
    """Return a probe, no longer right where a reward decides what is correct and does not find it so.

    Such a problem's gold is no answer to it, as a Countdown target is none: what a right answer earns is not known.
    """
    if suite.correct is None or judged_right or not probe.right:
        return probe
    return Probe("the gold, in the asked format", probe.text, None)


def _own_probe(text: str, right: bool) -> Probe:
    return Probe(OWN_RIGHT, text, None) if right else Probe(OWN_WRONG, text, False)


def _paid(scores: Scores, place: int) -> tuple[float, dict[str, float | None]]:
    return scores.totals[place], {name: values[place] for name, values in scores.parts.items()}


def _scored(
    suite: RewardSuite, problems: Sequence[Problem], texts: Sequence[str], token_ids: TokenIds | None, opened: str
) -> Scores:
    """Return what the suite pays for completions, each of its problem."""
    ids = None if token_ids is None else [list(token_ids(text)) for text in texts]
    prompts = [problem_messages(problem, suite.fmt) for problem in problems]
    return suite.score(prompts, texts, columns_of(problems), completion_ids=ids, opened=[opened or None] * len(texts))


def _best_answers(asked: Sequence[tuple[Problem, str, Probe]], scored: Sequence[Earned]) -> dict[str, str]:
    """Return by problem the answer that the rewards take for right: of several, the one that earns the most."""
    best: dict[str, tuple[float, str]] = {}
    for (problem, answer, _), each in zip(asked, scored, strict=True):
        if each.probe.kind == IN_FORM and each.total > best.get(problem.id, (-math.inf, ""))[0]:
            best[problem.id] = (each.total, answer)
    return {problem.id: best.get(problem.id, (0.0, problem.answer))[1] for problem, _, _ in asked}


def _judged(earned: Sequence[Earned]) -> tuple[tuple[Exploit, ...], tuple[Earned, ...]]:
    """Return the exploits, and the right answers that nothing is paid for."""
    least: dict[str, Earned] = {}
    for each in earned:
        if each.probe.right and each.total < least.get(each.problem.id, each).total + CLOSE:
            least[each.problem.id] = each
    silent = {each.problem.id: each.total for each in earned if each.probe.kind == "nothing"}
    unpaid = tuple(each for name, each in least.items() if each.total <= silent.get(name, -math.inf) + CLOSE)
    exploits = [
        Exploit(each, least[each.problem.id])
        for each in earned
        if each.probe.right is False and each.problem.id in least and each.total >= least[each.problem.id].total - CLOSE
    ]
    return tuple(sorted(exploits, key=lambda e: e.right.total - e.wrong.total)), unpaid
