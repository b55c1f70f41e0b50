"""Whether vLLM computes what the policy computes: log-probabilities of one prompt, from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mathgrpo.models import Policy
from mathgrpo.models.policy import resting
from mathgrpo.rollout.vllm.pushed_weights import plain_config

_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.15}
_TRIAL_TOKENS = 48
_TRIAL_SHARE = 1.0
"""How far the trial moves every matrix, in units of its own spread: far enough that one matrix left behind shows.

In bfloat16, on the starter's 37 matrices, that changes log-probabilities by 0.27 nats at least, and rounding by 0.07;
at a tenth of the spread, 34 of them would pass for rounding.
"""
_ROUNDINGS = 3.0
"""How many times the measured effect of rounding the trial allows."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean and largest |log-probability of vLLM - of the policy| over a prompt's tokens, in nats."""

    mean: float
    largest: float


def tolerance(dtype: torch.dtype) -> float:
    """Return the mean difference that rounding in this precision explains, in nats a token."""
    return _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16])


def difference(theirs: Sequence[float], ours: Sequence[float]) -> Difference:
    """Return how far two lists of log-probabilities are apart.

    Example:
        >>> difference([-1.0, -2.0], [-1.0, -2.5])
        Difference(mean=0.25, largest=0.5)
    """
    gaps = [abs(a - b) for a, b in zip(theirs, ours, strict=True)]
    return Difference(sum(gaps) / len(gaps), max(gaps))


def plain_logprobs(policy: Policy, model: Any, ids: Sequence[int]) -> list[float]:
    """Return a model's log-probability of every token but the first: one plain forward pass as the policy runs it."""
    row = torch.tensor([list(ids)], device=policy.device)
    with resting(model), torch.no_grad(), policy.autocast():
        logits: Tensor = model(input_ids=row, use_cache=False).logits
    logprobs = logits[0, :-1].float().log_softmax(-1)
    gathered: list[float] = logprobs.gather(1, row[0, 1:, None]).squeeze(1).tolist()
    return gathered


def trial_limit(policy: Policy, model: Any, ids: Sequence[int]) -> float:
    """Return the mean difference that rounding explains for a trial model: three times what it does to ours.

    Moved that far, a model of many layers multiplies rounding errors, so their effect is measured and not assumed.
    """
    exact = replace(policy, compute_dtype=torch.float32)
    rounding = difference(plain_logprobs(policy, model, ids), plain_logprobs(exact, model, ids)).mean
    return max(tolerance(policy.compute_dtype), _ROUNDINGS * rounding)


def trial_ids(policy: Policy) -> list[int]:
    """Return a prompt of token ids from all over the vocabulary."""
    size = policy.causal_lm.get_input_embeddings().weight.shape[0]
    length = min(_TRIAL_TOKENS, policy.max_context - 1)
    return [(7919 * i + 3) % size for i in range(length)]


def trial_model(policy: Policy, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    """Return the weights with every matrix moved by seeded noise, and a model of the policy's kind that has them."""
    noise = torch.Generator().manual_seed(0)
    moved = {name: _moved(weight, noise) if weight.ndim > 1 else weight for name, weight in weights.items()}
    model = AutoModelForCausalLM.from_config(plain_config(policy), dtype=torch.float32)
    model.load_state_dict(moved, strict=False)
    model.tie_weights()
    return moved, model.to(policy.device).eval()


def _moved(weight: Tensor, noise: torch.Generator) -> Tensor:
    step = torch.randn(weight.shape, generator=noise) * weight.float().std() * _TRIAL_SHARE
    return (weight.float() + step).to(weight.dtype)
