"""The policy's log-probabilities before an update's first optimizer step, where the loss needs all of them at once.

Elsewhere they are those of the first step's own forward pass and cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mathgrpo.grpo.loss import clip_flags
from mathgrpo.models.policy import resting
from mathgrpo.update.gradient import Step, micro_batch_of
from mathgrpo.update.logprobs import chunked_logprobs
from mathgrpo.update.pack import plan_micro_batches

# Shape legend: R completions of the step, M completion tokens of the step.


@dataclass(frozen=True, slots=True)
class Importance:
    """How completions are weighted for a sampler with other numerics: by w = p_trainer / p_sampler.

    Source: TRL 1.16, the four values of vllm_importance_sampling_mode.

    Attributes:
        low, high: bounds of w; None: no bound.
        mask: what is outside gets weight 0; else it is moved to the nearest bound.
        whole: w is of all tokens of a completion together, and the same for each; else of each token.
    """

    low: float | None = None
    high: float | None = 3.0
    mask: bool = True
    whole: bool = True

    def weights(self, ratio_R: Tensor) -> Tensor:
        """Return the weight for every ratio.

        Example:
            >>> Importance(high=3.0).weights(torch.tensor([0.5, 4.0])).tolist()
            [0.5, 0.0]
        """
        if not self.mask:
            return ratio_R.clamp(min=self.low, max=self.high)
        low, high = -torch.inf if self.low is None else self.low, torch.inf if self.high is None else self.high
        return torch.where((ratio_R < low) | (ratio_R > high), 0.0, ratio_R)


@torch.no_grad()
def fill_old_logprobs(step: Step) -> None:
    """Write the log-probabilities of all the step's pieces into old_logprobs_M: a forward pass of the policy as it is.

    The model is in evaluation mode: adapter dropout would make it another policy than the one that sampled.
    """
    step.forward.refresh()
    with resting(step.policy.model):
        for pieces in plan_micro_batches(step.groups, step.pieces, step.token_budget, shared_prompt=step.shared_prompt):
            batch = micro_batch_of(step, pieces, step.attention)
            with step.forward.context():
                hidden_NF = step.forward.hidden(batch)
                logprobs_N, _ = chunked_logprobs(hidden_NF, batch.targets, step.forward.head, step.temperature)
            step.old_logprobs_M.index_copy_(0, batch.token_index, logprobs_N[: len(batch.token_index)])


def weigh_advantages(step: Step, importance: Importance) -> dict[str, float]:
    """Multiply advantages by importance weights; return the weights' mean, smallest and largest.

    Weights are not negative, so the policy loss is multiplied by them, and the KL term is not. Completions that have no
    loss keep theirs. Needs `fill_old_logprobs`.
    """
    weight_of, advantages_M = [], step.tokens.advantages_M.clone()
    for piece in step.pieces:
        for g in piece.completions:
            begin = step.tokens.offsets[piece.group][g]
            rows = slice(begin, begin + len(step.groups[piece.group].completions[g].ids))
            difference = step.old_logprobs_M[rows] - step.tokens.sampling_logprobs_M[rows]
            weight = importance.weights(torch.exp(difference.sum().view(1) if importance.whole else difference))
            advantages_M[rows] *= weight
            weight_of.append(weight)
    step.tokens = replace(step.tokens, advantages_M=advantages_M)
    if not weight_of:
        return {}
    weights_R = torch.cat(weight_of)
    names = ("importance/mean", "importance/min", "importance/max")
    return dict(zip(names, torch.stack([weights_R.mean(), *weights_R.aminmax()]).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class SequenceRatios:
    """One ratio a completion, s = exp(mean of log p_now / p_sampled over its tokens), for an optimizer step.

    The gradient of -min(s A, clip(s) A) is that of -(s A) log p, averaged over the tokens, where the clip does not hold
    s back, and 0 elsewhere: so s A takes the advantage's place, and the ratio is to the policy as it is now. That takes
    one more forward pass. Not for a KL term, whose ratio is the token's.

    Source: GSPO (arXiv 2507.18071) eq. 5; TRL 1.16, importance_sampling_level="sequence".

    Attributes:
        sampled_M, advantages_M: log-probabilities of the policy that sampled, and the advantages, before any step.
    """

    sampled_M: Tensor
    advantages_M: Tensor

    @classmethod
    def of(cls, step: Step) -> SequenceRatios:
        """Return the ratios to the policy as it is now. Needs `fill_old_logprobs`."""
        return cls(step.old_logprobs_M.clone(), step.tokens.advantages_M)

    def set_for(self, step: Step) -> dict[str, float]:
        """Have the coming optimizer step use them; return the shares of completions that the clip holds back."""
        fill_old_logprobs(step)
        section, scaled_M = step.section, self.advantages_M.clone()
        low, high = torch.zeros(2, device=scaled_M.device).unbind()
        count = 0
        for piece in step.pieces:
            for g in piece.completions:
                begin = step.tokens.offsets[piece.group][g]
                rows = slice(begin, begin + len(step.groups[piece.group].completions[g].ids))
                ratio = torch.exp((step.old_logprobs_M[rows] - self.sampled_M[rows]).mean())
                held = clip_flags(ratio, self.advantages_M[begin], section.epsilon_low, section.epsilon_high)
                scaled_M[rows] *= torch.where(held[0] | held[1], 0.0, ratio)
                low, high, count = low + held[0], high + held[1], count + 1
        step.tokens = replace(step.tokens, advantages_M=scaled_M)
        return {"clip_ratio/low": float(low) / max(1, count), "clip_ratio/high": float(high) / max(1, count)}
