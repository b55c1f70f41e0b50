"""Whether a decoder computes what its model computes: a few tokens of both, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mathgrpo.hardware.cudnn import without_cudnn_attention
from mathgrpo.models import Policy
from mathgrpo.models.policy import resting
from mathgrpo.rollout.decoder import Decoder

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2}
_ROUNDINGS = 3.0
"""A decoder rounds elsewhere than the model's modules do, so it may be off by more than they are themselves."""


def is_rounding(difference: float, policy: Policy) -> bool:
    """Return whether a difference, as a share of the logits' spread, is what rounding explains; NaN never is.

    In 16 bits that depends on the model: logits that are large beside their spread are rounded coarsely. What passes
    the usual bound passes; beyond it the model's own rounding is measured.
    """
    if difference <= _TOLERANCE.get(policy.compute_dtype, 6e-2):
        return True
    return policy.compute_dtype != torch.float32 and difference <= _ROUNDINGS * rounding_difference(policy)


def rounding_difference(policy: Policy) -> float:
    """Return how far the plain forward pass in the compute precision is from one in float32, as share of the spread.

    The largest difference over the two prompts of a trial.
    """
    exact = replace(policy, compute_dtype=torch.float32)
    rounded, plain = (torch.cat([plain_logits(p, ids) for ids in trial_prompts(policy)]) for p in (policy, exact))
    return float((rounded - plain).abs().max() / plain.std().clamp_min(1e-6))


def trial_prompts(policy: Policy) -> list[list[int]]:
    """Return two prompts of 3 and 6 tokens."""
    rows = policy.model.get_input_embeddings().weight.shape[0]
    return [[(7 * i + 3) % rows for i in range(3)], [(5 * i + 2) % rows for i in range(6)]]


def trial_difference(decoder: Decoder, policy: Policy) -> float:
    """Return the largest difference between a decoder's logits and the plain forward pass, in units of their spread.

    Two prompts of 3 and 6 tokens, two rows each, one decoded token.
    """
    prompts, token = trial_prompts(policy), 4 % policy.model.get_input_embeddings().weight.shape[0]
    with resting(policy.model), decoder.context():
        session = decoder.open(max_rows=4, positions=10)
        first = session.prefill(dict(enumerate(prompts))).clone()
        session.admit([0, 0, 1, 1])
        second = session.step(torch.full((4,), token, dtype=torch.int64, device=policy.device)).float()
    plain_first = torch.stack([plain_logits(policy, ids)[-1] for ids in prompts])
    plain_second = torch.stack([plain_logits(policy, [*ids, token])[-1] for ids in prompts for _ in range(2)])
    plain = torch.cat((plain_first, plain_second))
    spread = plain.std().clamp_min(1e-6)
    return float((torch.cat((first, second)) - plain).abs().max() / spread)


def plain_logits(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Return the logits behind every token of a sequence, float32[T, V]: one full forward pass, no cache."""
    with resting(policy.model), torch.no_grad(), policy.autocast(), without_cudnn_attention(policy.device):
        row = torch.tensor([list(ids)], device=policy.device)
        logits: Tensor = policy.causal_lm(input_ids=row, use_cache=False).logits
    return logits[0].float()
