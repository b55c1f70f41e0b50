"""Whether a decoder computes what its model computes: a few tokens of both, compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mathgrpo.models import Policy
from mathgrpo.models.policy import resting
from mathgrpo.rollout.decoder import Decoder

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2}


def tolerance(dtype: torch.dtype) -> float:
    """Return the largest difference, as a share of the logits' spread, that rounding explains."""
    return _TOLERANCE.get(dtype, 6e-2)


def trial_difference(decoder: Decoder, policy: Policy) -> float:
    """Return the largest difference between a decoder's logits and the plain forward pass, in units of their spread.

    Two prompts of 3 and 6 tokens, two rows each, one decoded token.
    """
    rows = policy.model.get_input_embeddings().weight.shape[0]
    prompts = [[(7 * i + 3) % rows for i in range(3)], [(5 * i + 2) % rows for i in range(6)]]
    token = 4 % rows
    with resting(policy.model), decoder.context():
        session = decoder.open(prompts, max_new_tokens=4, max_rows=4)
        first = session.prefill([0, 1]).clone()
        session.admit([0, 0, 1, 1])
        second = session.step(torch.full((4,), token, dtype=torch.int64, device=policy.device)).float()
    plain_first = torch.stack([plain_logits(policy, ids)[-1] for ids in prompts])
    plain_second = torch.stack([plain_logits(policy, [*ids, token])[-1] for ids in prompts for _ in range(2)])
    plain = torch.cat((plain_first, plain_second))
    spread = plain.std().clamp_min(1e-6)
    return float((torch.cat((first, second)) - plain).abs().max() / spread)


def plain_logits(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Return the logits behind every token of a sequence, float32[T, V]: one full forward pass, no cache."""
    with resting(policy.model), torch.no_grad(), policy.autocast():
        row = torch.tensor([list(ids)], device=policy.device)
        logits: Tensor = policy.causal_lm(input_ids=row, use_cache=False).logits
    return logits[0].float()
