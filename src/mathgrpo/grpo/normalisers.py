"""Normalisers: how the token losses of an optimizer step become one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

# Shape legend: R completions of the step.

Normaliser = Literal["completions", "tokens", "constant"]


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
