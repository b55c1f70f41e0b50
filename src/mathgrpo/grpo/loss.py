"""The GRPO loss as pure functions on flat token arrays.

The loss of an optimizer step is a sum over completion tokens,

    loss = sum_t  w_t * ( -min(r_t A_t, clip(r_t, 1 - eps_low, 1 + eps_high) A_t) + beta * r_t k3_t ),

where the weights w_t hold the whole normaliser. They are computed once per optimizer step from all its completions, so
neither micro-batching nor skipping a token whose term is zero can change the result.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# Shape legend: R completions of the step, N completion tokens.

LossName = Literal["grpo", "dr_grpo", "dapo", "bnpo"]


def completion_weights(loss: LossName, lengths_R: Tensor, kept_R: Tensor, max_new_tokens: int) -> Tensor:
    """Return the weight of every token of each completion, the step's normaliser included.

    With R completions of length len_i, of which truncated ones may be masked (kept_i = 0):

        grpo     kept_i / (R * len_i)             mean over tokens, then over completions
        dapo     kept_i / sum_j kept_j len_j      mean over the step's tokens
        bnpo     kept_i / sum_j kept_j len_j      the same (see Departs)
        dr_grpo  kept_i / (R * max_new_tokens)    constant divisor, so length does not change a token's weight

    R counts masked completions too, as in TRL.

    Shapes: lengths_R, kept_R [R] -> [R], float32.
    Source: grpo DeepSeekMath eq. 3; dr_grpo arXiv 2503.20783; dapo arXiv 2503.14476 eq. 8; TRL 1.16
        `GRPOTrainer._compute_loss`.
    Departs: TRL's bnpo divides by the tokens of each micro-batch and averages over micro-batches, so its gradient
        depends on the micro-batch size. Here the whole step is one batch, which is TRL's bnpo with one micro-batch.

    Example:
        >>> completion_weights("grpo", torch.tensor([2, 4]), torch.tensor([True, True]), 8).tolist()
        [0.25, 0.125]
    """
    lengths, kept = lengths_R.float(), kept_R.float()
    num_completions = max(1, lengths_R.numel())
    if loss == "grpo":
        return kept / (lengths.clamp(min=1.0) * num_completions)
    if loss == "dr_grpo":
        return kept / (num_completions * max_new_tokens)
    return kept / (kept * lengths).sum().clamp(min=1.0)


def clipped_policy_loss(ratio_N: Tensor, advantages_N: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """Return -min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) per token.

    Source: PPO (arXiv 1707.06347 eq. 7) with DAPO's separate upper bound.

    Example:
        >>> clipped_policy_loss(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0]), 0.2, 0.2).tolist()
        [-1.2000000476837158, -0.5]
    """
    clipped = ratio_N.clamp(1.0 - epsilon_low, 1.0 + epsilon_high)
    return -torch.minimum(ratio_N * advantages_N, clipped * advantages_N)


def importance_weights(old_logprobs_N: Tensor, sampling_logprobs_N: Tensor, cap: float) -> Tensor:
    """Return min(cap, p_trainer / p_sampler) per token: what a sampler with other numerics needs to be on-policy.

    old_logprobs_N: the trainer's own, of the policy that sampled; constants of the loss.
    Source: truncated importance sampling, Yao et al. 2025 (https://fengyao.notion.site/off-policy-rl); TRL 1.16's
        vllm_importance_sampling_mode="token_truncate". As there it multiplies the policy loss, not the KL term.

    Example:
        >>> importance_weights(torch.tensor([-1.0, 0.0]), torch.tensor([-1.0, -2.0]), 3.0).tolist()
        [1.0, 3.0]
    """
    return torch.exp(old_logprobs_N - sampling_logprobs_N).clamp(max=cap)


def k3_kl(token_logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference) per token, exp(d) - d - 1 with d = ref - policy.

    Never negative, 0 where both agree.
    The loss takes it times the ratio r. At r = 1 the value is the same, the gradient is not: that of k3 alone,
    1 - exp(d), is the forward KL's in expectation; with the ratio it is that of KL(policy || reference), at every r.

    Source: DeepSeekMath eq. 4; http://joschu.net/blog/kl-approx.html; the ratio from DeepSeek-V3.2 (arXiv 2512.02556),
        TRL 1.16's default (use_bias_correction_kl).

    Example:
        >>> round(k3_kl(torch.tensor([0.0]), torch.tensor([1.0])).item(), 4)
        0.7183
    """
    difference = ref_logprobs_N - token_logprobs_N
    return torch.exp(difference) - difference - 1.0


def clip_flags(ratio_N: Tensor, advantages_N: Tensor, epsilon_low: float, epsilon_high: float) -> tuple[Tensor, Tensor]:
    """Return which tokens the lower and which the upper bound holds back, that is, which add no gradient.

    The lower bound acts only on negative advantages, the upper only on positive ones.
    """
    low = (ratio_N < 1.0 - epsilon_low) & (advantages_N < 0)
    high = (ratio_N > 1.0 + epsilon_high) & (advantages_N > 0)
    return low, high
