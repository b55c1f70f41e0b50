"""The records that travel from stage to stage. All are frozen; none imports a heavy library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

FinishReason = Literal["eos", "length"]

Outcome = Literal["correct", "wrong", "no_answer", "ambiguous", "refused", "timeout", "error"]
"""correct and wrong: answer and gold were both read. no_answer: there is none. ambiguous: several that differ.
refused: there is one, but not in a form the grader reads. timeout and error: the grader failed, which is counted and
never in silence."""


class Verdict(str):
    """What the grader says of an answer: a text that is its outcome, and how it came to it.

    Attributes:
        read: what was read as the answer, "" where nothing was.
        rule: the short name of the rule that decided: "number", "latex", "text", ...
        why: the reason, in one clause.

    Example:
        >>> verdict = Verdict("wrong", read="1261", rule="number", why="another number than the gold")
        >>> verdict == "wrong", verdict.outcome, verdict.read
        (True, 'wrong', '1261')
    """

    __slots__ = ("read", "rule", "why")

    read: str
    rule: str
    why: str

    def __new__(cls, outcome: Outcome, read: str = "", rule: str = "", why: str = "") -> Self:
        verdict = super().__new__(cls, outcome)
        verdict.read, verdict.rule, verdict.why = read, rule, why
        return verdict

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        return type(self), (self.outcome, self.read, self.rule, self.why)

    def __deepcopy__(self, memo: object) -> Self:
        return self  # like any text

    @property
    def outcome(self) -> str:
        """The outcome as a plain text."""
        return str.__str__(self)


def question_id(question: str) -> str:
    """Return a 16-digit hexadecimal name for a question, blind to case and spacing.

    Two problems with the same id are the same problem: train and held-out sets are kept apart by it.

    Example:
        >>> question_id("What is  2+2?") == question_id("what is 2+2? ")
        True
    """
    normalised = " ".join(question.split()).casefold()
    return hashlib.sha256(normalised.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer.

    Attributes:
        question: what the model is asked, without any format instruction.
        answer: the gold answer as its source writes it ("1,200", "-5", "\\\\frac{1}{2}").
        solution: a worked solution without the final answer line, or None.
        template: which generator template made it ("gsm_symbolic/31"), or "" when unknown.
        columns: further columns of the source row, passed to reward functions by name.

    Example:
        >>> Problem(question="What is 2+2?", answer="4").id == question_id("What is 2+2?")
        True
    """

    question: str
    answer: str
    solution: str | None = None
    template: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The problem's name: `question_id` of its question."""
        return question_id(self.question)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenised prompt, ready for the rollout engine.

    Attributes:
        ids: token ids; never empty.
        key: a 63-bit integer naming the problem; sampling noise is keyed by it.
        opened: what it has written of the answer already: a <think> that the chat template opens, a beginning that is
            to be continued. Completions are read behind it.
    """

    ids: tuple[int, ...]
    key: int
    opened: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        max_new_tokens: tokens sampled at most, the end token included.
        temperature: 0 is greedy.
        top_p, top_k, min_p: truncations, applied after temperature in the order k, p, min_p;
            1.0, 0 and 0.0 switch them off.
        seed: keys the noise together with problem, sample and position.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion.

    Attributes:
        ids: sampled token ids, the end token included when there is one.
        logprobs: log-probability of each id under the distribution it was really drawn from
            (after temperature and truncation; for greedy, under the plain softmax).
        finish_reason: "eos" if an end token was sampled, "length" if it was cut.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Graded:
    """A completion, read once by its format and graded once: rewards, metrics and evaluations look here.

    Attributes:
        reasoning: text of the reasoning block, None without one.
        answer: the format's one final answer, None without one or with several.
        found: the answer wherever it stands, None without one; `answer` where there is one.
        verdict: on `answer`: "correct" here is strict accuracy.
        flexible_verdict: on `found`.
        format_strict, format_soft: the format's two checks.
        worked: the reasoning has at least one arithmetic step, an "=" with a number on both sides.
        found_at: where `found` stands: "format", or outside it in a "tag", "box", behind a "hash", "said" to be the
            answer, or simply the "last" formula or number; "none" without one.
    """

    reasoning: str | None
    answer: str | None
    found: str | None
    verdict: Verdict
    flexible_verdict: Verdict
    format_strict: bool
    format_soft: bool
    worked: bool
    found_at: str = field(default="none", compare=False)


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """All completions of one problem in one step, rewarded.

    Attributes:
        problem: the problem.
        prompt: its tokenised prompt.
        completions: the G completions.
        texts: their decoded texts (end tokens removed).
        rewards: G total rewards; NaN where no reward applies.
        reward_parts: reward name -> G values; None where that reward does not apply.
        grades: what the grader says of each completion; empty until they are rewarded, or where nothing is graded.
        advantages: G advantages; empty until they are computed.
    """

    problem: Problem
    prompt: Prompt
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    rewards: tuple[float, ...] = ()
    reward_parts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    grades: tuple[Graded, ...] = ()
    advantages: tuple[float, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The grades' verdicts ("correct", "wrong", ...)."""
        return tuple(graded.verdict for graded in self.grades)
