"""What an evaluation keeps, and its numbers: pure functions on its records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import comb, sqrt
from typing import Any, Literal

from mathgrpo.answers import parse_number

Metric = Literal["greedy", "sampled"]
ANSWER = "answer"
"""What an evaluation counts as correct where no reward decides: a right answer."""


def outcome_of_file(word: str) -> str:
    """Return the outcome that a file says, in today's word: what is "refused" was "unreadable" before.

    Example:
        >>> outcome_of_file("unreadable"), outcome_of_file("wrong")
        ('refused', 'wrong')
    """
    return "refused" if word == "unreadable" else word


@dataclass(frozen=True, slots=True)
class GradedCompletion:
    """One completion and what is said about it.

    Attributes:
        text: the decoded completion, end tokens removed.
        answer: the answer found in the format, or None.
        verdict: the grader's strict verdict, on the answer in the format; where a reward decides, the reward's.
        flexible_verdict: the verdict on an answer found anywhere in the text; where a reward decides, the same.
        format_strict, format_soft: the format's two checks.
        worked: the reasoning holds at least one arithmetic step.
        tokens: sampled tokens, the end token included.
        finish_reason: "eos" or "length".
        rule, why: by which rule and why the strict verdict is so, see `Verdict`; "" in files of before.
        rewards: reward name -> its unweighted value, None where it does not apply; of an evaluation without rewards {}.
    """

    text: str
    answer: str | None
    verdict: str
    flexible_verdict: str
    format_strict: bool
    format_soft: bool
    worked: bool
    tokens: int
    finish_reason: str
    rule: str = ""
    why: str = ""
    rewards: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("verdict", "flexible_verdict"):
            object.__setattr__(self, name, outcome_of_file(getattr(self, name)))

    @property
    def correct(self) -> bool:
        """True if the answer in the format is right, or the reward that decides pays enough."""
        return self.verdict == "correct"

    @property
    def readable(self) -> bool:
        """True if an answer in the format could be read, right or wrong."""
        return self.verdict in ("correct", "wrong")


@dataclass(frozen=True, slots=True)
class ProblemRecord:
    """One problem with its greedy completion and its sampled ones (none when only greedy was asked for)."""

    id: str
    question: str
    gold: str
    template: str
    greedy: GradedCompletion
    samples: tuple[GradedCompletion, ...] = ()

    def completions(self, metric: Metric) -> tuple[GradedCompletion, ...]:
        """The completions a metric looks at: the greedy one alone, or all samples."""
        return (self.greedy,) if metric == "greedy" else self.samples

    def accuracy(self, metric: Metric) -> float:
        """Share of those completions that are correct; 0 when there are none."""
        completions = self.completions(metric)
        return sum(c.correct for c in completions) / max(len(completions), 1)

    def reward(self, name: str, metric: Metric) -> float | None:
        """Mean of what a reward pays those completions; None where it applies to none."""
        return _mean_reward(self.completions(metric), name)


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How the completions of an evaluation were drawn; `samples` 0 means greedy only.

    correct: what counts as correct: "answer", or a reward with its threshold, as in "countdown >= 1".
    """

    max_new_tokens: int
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    format: str = ""
    model: str = ""
    engine: str = ""
    correct: str = ANSWER


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All records of one model on one problem set, in the order of the problems."""

    records: tuple[ProblemRecord, ...]
    settings: EvaluationSettings

    def summary(self) -> dict[str, Any]:
        """Every number of the evaluation under a flat name, ready for JSON; see `summarise`."""
        return summarise(self.records, by_answer=self.settings.correct == ANSWER)

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The rewards that were evaluated; none in an evaluation without."""
        return tuple(dict.fromkeys(name for record in self.records for name in record.greedy.rewards))

    @property
    def by(self) -> str:
        """What decides, to stand behind the word accuracy: see `counted_by`."""
        return counted_by(self.settings.correct)


def counted_by(correct: str) -> str:
    """Return in brackets what decides on correct; "" for right answers, which the word accuracy says.

    Example:
        >>> counted_by("checks/tests.py:passes >= 0.5"), counted_by("answer")
        (' (correct by tests.py:passes ≥ 0.5)', '')
    """
    name, _, least = correct.rpartition(" >= ")
    return f" (correct by {reward_label(name)} ≥ {least})" if name else ""


def reward_label(name: str) -> str:
    """Return a reward's name without the folder of a user's file."""
    return re.split(r"[/\\]", name)[-1]


Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion.

    No trials say nothing: (0, 1).
    Source: Wilson 1927, JASA 22 (158), 209-212; recommended over Wald in Brown, Cai, DasGupta 2001.

    Example:
        >>> [round(x, 4) for x in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, Z95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return max(low, 0.0), min(high, 1.0)


def mean_interval(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """Return the normal 95 % interval of the mean of one value per problem, cut to what it can be: low to high.

    Samples of one problem are not independent, so the problem is the unit: a share is the mean over its samples, a
    paired difference that of two such shares. Fewer than two problems say nothing: (low, high).
    Source: Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640, sections 2 and 4.
    """
    n = len(values)
    if n < 2:
        return low, high
    mean = sum(values) / n
    half = Z95 * sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return max(mean - half, low), min(mean + half, high)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate of the chance that at least one of k samples is correct: 1 - C(n-c, k) / C(n, k).

    Raises: ValueError unless 1 <= k <= num_samples.
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, equation 1.

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k}: need 1 <= k <= num_samples={num_samples}")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def majority_correct(completions: Sequence[GradedCompletion], *, by_answer: bool = True) -> float:
    """Return the chance that the most frequent readable answer is correct.

    Answers of equal value vote together ("7" and "7.00"); completions without a readable answer do not vote; a tie is
    broken by a fair draw, so k tied answers of which one is correct give 1 / k.
    by_answer: all correct answers equal the gold, however they are written, and vote together. Where a reward decides
    there are different correct ones, and an answer is as correct as its completions are on average.
    Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning", arXiv:2203.11171.
    """
    votes: dict[object, list[bool]] = {}
    for completion in completions:
        if completion.readable:
            votes.setdefault(_ballot(completion, by_answer), []).append(completion.correct)
    top = max(map(len, votes.values()), default=0)
    winners = [sum(block) / top for block in votes.values() if len(block) == top]
    return sum(winners) / len(winners) if winners else 0.0


def _ballot(completion: GradedCompletion, by_answer: bool) -> tuple[bool, Fraction | str]:
    if by_answer and completion.correct:
        return True, ""
    text = (completion.text if completion.answer is None else completion.answer).strip()
    number = parse_number(text)
    return False, text if number is None else number


def mean_pass_at_k(records: Sequence[ProblemRecord], k: int) -> float:
    """Return pass@k averaged over problems; every problem needs at least k samples."""
    return sum(pass_at_k(len(r.samples), sum(c.correct for c in r.samples), k) for r in records) / len(records)


def _mean_reward(completions: Sequence[GradedCompletion], name: str) -> float | None:
    known = [value for c in completions if (value := c.rewards.get(name)) is not None]
    return sum(known) / len(known) if known else None


def completion_rates(completions: Sequence[GradedCompletion]) -> dict[str, Any]:
    """Return accuracy, format, working, length, truncation and rewards; shares in [0, 1], length in tokens.

    accuracy is strict (answer in the format), accuracy_flexible takes an answer from anywhere in the text; where a
    reward decides both are its share. reward/NAME is the mean of the completions that the reward applies to.
    """
    n = max(len(completions), 1)
    names = dict.fromkeys(name for c in completions for name in c.rewards)
    means = {f"reward/{name}": mean for name in names if (mean := _mean_reward(completions, name)) is not None}
    return {
        "accuracy": sum(c.correct for c in completions) / n,
        "accuracy_flexible": sum(c.flexible_verdict == "correct" for c in completions) / n,
        "format_rate": sum(c.format_strict for c in completions) / n,
        "format_rate_soft": sum(c.format_soft for c in completions) / n,
        "worked_rate": sum(c.worked for c in completions) / n,
        "mean_length": sum(c.tokens for c in completions) / n,
        "clipped_ratio": sum(c.finish_reason == "length" for c in completions) / n,
        "verdicts": dict(sorted(Counter(c.verdict for c in completions).items())),
        **means,
    }


def summarise(records: Sequence[ProblemRecord], *, by_answer: bool = True) -> dict[str, Any]:
    """Return every number of an evaluation under a flat name. by_answer: no reward decides on correct.

    Greedy numbers have plain names ("accuracy", "accuracy_low", "accuracy_high", "format_rate", ...); those of the
    samples, when there are any, begin with "sampled/" and add "sampled/pass@k" (k = 1, 2, 4, ... and all) and
    "sampled/maj@n".
    """
    greedy = [record.greedy for record in records]
    low, high = wilson_interval(sum(c.correct for c in greedy), len(greedy))
    summary = {"problems": len(records), **completion_rates(greedy), "accuracy_low": low, "accuracy_high": high}
    return summary | _sampled_summary(records, by_answer)


def _sampled_summary(records: Sequence[ProblemRecord], by_answer: bool) -> dict[str, Any]:
    num_samples = min((len(r.samples) for r in records), default=0)
    if num_samples == 0:
        return {}
    low, high = mean_interval([r.accuracy("sampled") for r in records])
    rates = completion_rates([completion for record in records for completion in record.samples])
    rates |= {"accuracy_low": low, "accuracy_high": high}
    ks = sorted({2**i for i in range(num_samples.bit_length()) if 2**i <= num_samples} | {num_samples})
    rates |= {f"pass@{k}": mean_pass_at_k(records, k) for k in ks}
    rates[f"maj@{num_samples}"] = sum(majority_correct(r.samples, by_answer=by_answer) for r in records) / len(records)
    return {f"sampled/{name}": value for name, value in rates.items()}
