"""Token log-probabilities of completions, chunk by chunk, so that few logits are held at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Shape legend: N completion tokens (padded to a bucket), V vocabulary, F hidden size.

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits in one chunk. On a CPU 4 MiB in fp32, which stay in the cache: 512 tokens of a vocabulary of 2,048."""
MIN_CHUNK = 256
"""Tokens in a chunk at least, so that with a large vocabulary the head is still an efficient matrix product."""


def chunk_rows(num_rows: int, vocab_size: int, device: torch.device | str) -> list[slice]:
    """Return the chunks in which the logits of `num_rows` tokens are computed.

    Example:
        >>> chunk_rows(600, 151_936, "cpu")
        [slice(0, 256, None), slice(256, 512, None), slice(512, 600, None)]
    """
    size = max(MIN_CHUNK, CHUNK_ELEMENTS.get(torch.device(device).type, 1 << 20) // vocab_size)
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def token_logprobs(
    logits_NV: Tensor, targets_N: Tensor, temperature: float, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Return (log softmax(logits / temperature) at the targets, its entropy), float32 [N] each.

    The softmax is the full one. Where sampling was truncated (top_p, top_k, min_p) its log-probabilities are higher
    than these by the log of the mass kept; that difference is logged and makes no importance weight, because the policy
    gradient is that of the full softmax (TRL does the same, its issue 6789).
    The entropy has a gradient if asked for. A backward pass through both runs once.
    """
    logprobs, entropy = _TokenLogprobs.apply(logits_NV, targets_N, temperature, entropy_gradient)  # type: ignore[no-untyped-call]
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits / temperature) at the targets, and the entropy; the backward pass overwrites what it kept."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N: Tensor, temperature: float, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        scaled = logits_NV.float()
        scaled = scaled / temperature if temperature != 1.0 else scaled
        probs = torch.softmax(scaled, dim=-1)
        # log Z = max_v logit_v - log max_v p_v: the largest probability is at least 1 / V, so its log is exact enough.
        log_total = scaled.amax(dim=-1) - torch.log(probs.amax(dim=-1))
        picked = scaled.gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)
        # H = log Z - sum_v p_v logit_v
        entropy = log_total - torch.linalg.vecdot(probs, scaled)
        ctx.saved = (probs, targets_N, temperature, logits_NV.dtype, entropy if entropy_gradient else None)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return picked - log_total, entropy

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, entropy_grad_N: Tensor) -> tuple[Tensor, None, None, None]:
        (probs, targets_N, temperature, dtype, entropy_N), ctx.saved = ctx.saved, None
        # d logp_target / d logit_v = (1[v = target] - p_v) / temperature
        scale = (grad_N / temperature).unsqueeze(-1)
        extra = None
        if entropy_N is not None:
            # d H / d logit_v = -p_v (log p_v + H) / temperature
            extra = torch.special.xlogy(probs, probs).addcmul_(probs, entropy_N.unsqueeze(-1))
            extra.mul_((entropy_grad_N / -temperature).unsqueeze(-1))
        grad = probs.mul_(-scale)
        grad.scatter_add_(-1, targets_N.unsqueeze(-1), scale)
        return (grad if extra is None else grad.add_(extra)).to(dtype), None, None, None
