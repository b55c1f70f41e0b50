"""Small results of known numbers, for the tests of the benchmark's arithmetic and tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Experiment, Gradient, Row, Sample
from benchmarks.settings import OURS, TRL_GENERATE, TRL_TUNED_ALLOCATOR, Contestant, Settings


def sample(step: int, seconds: float, *, rollout: float = 0.0, tokens: int = 100, prompts: int = 20) -> Sample:
    return Sample(
        step=step, seconds=seconds, rollout_s=rollout or seconds / 2, reward_s=0.0, tokens=tokens, longest=tokens // 2,
        prompt_tokens=prompts, peak_bytes=500_000_000, resident_bytes=400_000_000, logprob_difference=None,
    )  # fmt: skip


def row(contestant: Contestant, seconds: Sequence[float]) -> Row:
    return Row(
        contestant=contestant, samples=tuple(sample(i + 2, s) for i, s in enumerate(seconds)),
        warmup=(sample(0, 9.0), sample(1, 9.0)), imported_bytes=250_000_000,
    )  # fmt: skip


def experiment(*, with_trl: bool = True) -> Experiment:
    """Ours takes 1 s, TRL 2, 3 and 4 s; with our allocator, 1.5 s."""
    rows = [row(OURS, [1.0, 1.0, 1.0])]
    if with_trl:
        rows += [row(TRL_GENERATE, [2.0, 3.0, 4.0]), row(TRL_TUNED_ALLOCATOR, [1.5, 1.5, 1.5])]
    return Experiment(
        name="natural", title="A step", settings=Settings(), rows=tuple(rows),
        gradient=Gradient(relative=2e-6, norm=1.0, loss=0.5, trl_loss=0.5, tokens=1660),
    )  # fmt: skip
