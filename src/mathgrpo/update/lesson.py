"""What an update is asked, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo.importance import Importance
from mathgrpo.types import Sampling
from mathgrpo.update.pack import Piece


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not a finite number, found before the optimizer step, so the weights are unharmed."""


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What an update did.

    Attributes:
        metrics: loss, grad_norm, entropy, kl (with beta > 0), clip_ratio/low and /high (of losses that clip),
            sampling/logprob_difference/mean and /max, weights_moved; with importance weights their mean, min and max,
            and importance/capped, the share at a bound. Means over the update's optimizer steps; a metric of which no
            token was computed is absent. entropy, kl, importance and the sampling difference are means over what was
            computed, clip ratios over all that is not masked: tokens, or completions where these have one value.
        tokens: input tokens computed in one optimizer step, padding not counted.
        completion_tokens: completion tokens of the step, skipped ones included.
        micro_batches: of one optimizer step.
        skipped_groups: groups of which nothing had to be computed.
        token_budget: what was used in the end; lower than asked for after running out of memory.
        layout: "shared", or "plain" with one row a completion.
        notes: what a user should know, such as why prompts were not shared.
    """

    metrics: dict[str, float]
    tokens: int
    completion_tokens: int
    micro_batches: int
    skipped_groups: int
    token_budget: int
    layout: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lesson:
    """How groups are learnt from.

    Attributes:
        temperature, max_new_tokens: as the completions were drawn.
        parts: the completions of each optimizer step, in turn; none: every step takes all. A part counts as much as
            the whole does. The old log-probabilities are then those of one forward pass before the first step.
        importance: weights for the sampler's numerics.
        sampling: how the completions were drawn, so that it can be seen that they were; None leaves that out.
        tolerance: nats a token that a sampler of its own numerics may be off, where that is more than rounding.
    """

    section: GrpoSection
    temperature: float
    max_new_tokens: int
    max_grad_norm: float
    parts: Sequence[Sequence[Piece]] = ()
    importance: Importance | None = None
    sampling: Sampling | None = None
    tolerance: float = 0.0
