"""The loss: what an optimizer step minimises, with the term that most objectives share.

The loss of an optimizer step is a sum over its completion tokens,

    loss = sum_t  w_t * ( v_t * policy_t + beta * r_t * k3_t )  -  entropy_coef * mean_t H_t,

with r_t = p_now / p_old of a token, or of its whole completion. policy_t is an objective's own term, w_t the normaliser
(`completion_weights`), v_t the importance weight for a sampler with other numerics, 1 without one; H_t the entropy of
the policy at the token, its mean over the step (in TRL 1.16 over each micro-batch). `objectives.py` has the names, the
other terms and their settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mathgrpo.grpo.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

# Shape legend: N completion tokens, R completions of the step.

Normaliser = Literal["completions", "tokens", "constant"]
Settings = Mapping[str, float]
Named = dict[str, "Tensor"]
"""Name of a metric -> its value at every token, or what became of those: a sum, the largest or the smallest."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Completion tokens as an objective sees them, one value a token: float32 [N] each.

    Attributes:
        logprobs_N: log-probabilities under the policy as it is now; the gradient goes through them.
        old_N, ref_N, sampling_N: those of the policy that sampled, by the trainer; of the reference, only looked at
            with beta > 0; and those that the sampler drew with.
        advantages_N: how much better the completion is than its group.
        lengths: tokens of each completion, one completion after another; () where completions are cut into chunks,
            which no objective sees that needs whole completions.
    """

    logprobs_N: Tensor
    old_N: Tensor
    ref_N: Tensor
    sampling_N: Tensor
    advantages_N: Tensor
    lengths: tuple[int, ...] = ()


Term = Callable[[Tokens, "Tensor", Settings], tuple["Tensor", Named]]
"""(tokens, ratio_N, settings) -> (policy loss at every token, flags at every token whose shares are metrics)."""


def clipped(tokens: Tokens, ratio_N: Tensor, settings: Settings) -> tuple[Tensor, Named]:
    """Return -min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A); with delta, min(r, delta) for the first r.

    Flags: where the lower bound (negative advantages) and the upper one (positive) hold a token back, so that it adds
    no gradient.
    Source: PPO, arXiv 1707.06347 eq. 7; the upper bound of its own DAPO, arXiv 2503.14476; delta INTELLECT-2, arXiv
        2505.07291, which bounds what a token of negative advantage can add; TRL 1.16.

    Example:
        >>> import torch
        >>> settings = {"epsilon_low": 0.2, "epsilon_high": 0.2, "delta": 4.0}
        >>> ratio_N, advantages_N = torch.tensor([1.5, 0.5, 9.0]), torch.tensor([1.0, 1.0, -1.0])
        >>> clipped(Tokens(*[advantages_N] * 5), ratio_N, settings)[0].tolist()
        [-1.2000000476837158, -0.5, 4.0]
    """
    low, high, advantages_N = 1.0 - settings["epsilon_low"], 1.0 + settings["epsilon_high"], tokens.advantages_N
    bounded_N = ratio_N.clamp(low, high)
    if settings["delta"] < math.inf:
        ratio_N = ratio_N.clamp(max=settings["delta"])
    flags = {
        "clip_ratio/low": (ratio_N < low) & (advantages_N < 0),
        "clip_ratio/high": (ratio_N > high) & (advantages_N > 0),
    }
    return -(ratio_N * advantages_N).minimum(bounded_N * advantages_N), flags


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective with all its settings, as `objectives.choose_objective` makes it.

    Attributes:
        normaliser: where its token losses are averaged.
        flags: names of its term's flags.
    """

    term: Term
    normaliser: Normaliser
    flags: tuple[str, ...]
    settings: Settings
    beta: float = 0.0
    importance: Importance | None = None

    @property
    def sequence_ratio(self) -> bool:
        """Whether a completion has one ratio."""
        return self.settings["sequence_ratio"] == 1.0

    @property
    def needs_whole_completions(self) -> bool:
        """Whether a token's loss depends on the other tokens of its completion."""
        return self.sequence_ratio or (self.importance is not None and self.importance.whole)

    @property
    def zero_without_advantage(self) -> bool:
        """Whether a completion of advantage 0 has gradient 0, whatever the policy: every term is a multiple of it."""
        return self.beta == 0.0 and self.settings["entropy_coef"] == 0.0

    def counts_completions(self, metric: str) -> bool:
        """Whether a metric of `losses` has one value for all tokens of a completion, which then counts once."""
        if metric.startswith("importance/"):
            return self.importance is not None and self.importance.whole
        return self.sequence_ratio and metric in self.flags

    def losses(self, tokens: Tokens) -> tuple[Tensor, Named]:
        """Return every token's loss, without normaliser and entropy bonus, and the metrics' values at every token.

        Shapes: [N], float32.
        """
        log_ratio_N = tokens.logprobs_N - tokens.old_N
        if self.sequence_ratio:
            log_ratio_N = completion_means(log_ratio_N, tokens.lengths)
        ratio_N = log_ratio_N.exp()
        losses_N, named = self.term(tokens, ratio_N, self.settings)
        if self.importance is not None:
            difference_N = tokens.old_N - tokens.sampling_N
            if self.importance.whole:
                difference_N = completion_means(difference_N, tokens.lengths, total=True)
            correction_N = difference_N.exp()
            weight_N = self.importance.weights(correction_N)
            losses_N = losses_N * weight_N
            named |= {f"importance/{what}": weight_N for what in ("mean", "min", "max")}
            named["importance/capped"] = self.importance.outside(correction_N)
        if self.beta > 0.0:
            named["kl"] = ratio_N * k3_kl(tokens.logprobs_N, tokens.ref_N)
            losses_N = losses_N + self.beta * named["kl"]
        return losses_N, named


def completion_weights(normaliser: Normaliser, lengths_R: Tensor, kept_R: Tensor, max_new_tokens: int) -> Tensor:
    """Return the weight of every token of each completion, so that the step's loss is a weighted sum of token losses.

    With R completions of length len_i, of which truncated ones may be masked (kept_i = 0):

        completions  kept_i / (R * len_i)             mean over tokens, then over completions
        tokens       kept_i / sum_j kept_j len_j      mean over the step's tokens
        constant     kept_i / (R * max_new_tokens)    constant divisor, so length does not change a token's weight

    R counts masked completions too, as in TRL. The weights are counted once per optimizer step, so neither
    micro-batching nor skipping a token whose loss is zero can change the result.

    Shapes: lengths_R, kept_R [R] -> [R], float32.
    Source: completions DeepSeekMath eq. 3; tokens DAPO, arXiv 2503.14476 eq. 8; constant Dr. GRPO, arXiv 2503.20783;
        TRL 1.16 `GRPOTrainer._compute_loss`.

    Example:
        >>> import torch
        >>> completion_weights("completions", torch.tensor([2, 4]), torch.tensor([True, True]), 8).tolist()
        [0.25, 0.125]
    """
    lengths, kept = lengths_R.float(), kept_R.float()
    num_completions = max(1, lengths_R.numel())
    if normaliser == "completions":
        return kept / (lengths.clamp(min=1.0) * num_completions)
    if normaliser == "constant":
        return kept / (num_completions * max_new_tokens)
    return kept / (kept * lengths).sum().clamp(min=1.0)


def k3_kl(token_logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference) per token, exp(d) - d - 1 with d = ref - policy.

    The loss takes it times the ratio r, which at r = 1 changes the gradient alone: that of k3, 1 - exp(d), is the
    forward KL's in expectation; with the ratio it is that of KL(policy || reference), at every r.

    Source: DeepSeekMath eq. 4; http://joschu.net/blog/kl-approx.html; the ratio from DeepSeek-V3.2 (arXiv 2512.02556),
        TRL 1.16's default (use_bias_correction_kl).

    Example:
        >>> import torch
        >>> round(k3_kl(torch.tensor([0.0]), torch.tensor([1.0])).item(), 4)
        0.7183
    """
    difference = ref_logprobs_N - token_logprobs_N
    return difference.exp() - difference - 1.0


def completion_means(values_N: Tensor, lengths: Sequence[int], *, total: bool = False) -> Tensor:
    """Return at every token the mean over its completion, or the total.

    lengths: tokens of each completion, one after another.

    Example:
        >>> import torch
        >>> completion_means(torch.tensor([1.0, 3.0, 5.0]), (2, 1)).tolist()
        [2.0, 2.0, 5.0]
    """
    import torch

    parts = values_N.split(list(lengths))
    return torch.cat([(part.sum() if total else part.mean()).expand(len(part)) for part in parts])
