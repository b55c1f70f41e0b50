"""Whether an adapter lives inside the layers of its model, where rollout and update run it."""

from __future__ import annotations

import torch
from torch import Tensor

from mathgrpo.errors import UserError, first_line
from mathgrpo.models.moved_weights import moved
from mathgrpo.models.policy import Policy, resting

_OUTSIDE = {
    "LILY": "chooses its experts by all tokens at hand, later ones too",
    "SHADOW": "runs a second model beside the layers",
    "POLY": "must be told a task with every text",
}
"""Kinds of PEFT that nothing here can serve, and what they do."""
_TOLERANCE = {torch.float32: 1e-3}
_TOKENS = 6


def require_inside(policy: Policy) -> None:
    """Raise UserError unless the model inside a PEFT model computes, token after token, what the PEFT model does.

    Rollout and update run the inner model, in whose layers most adapters are. Virtual tokens before the prompt, weights
    mixed by a first pass over it, and whatever else happens around the layers would be left out without a word. Tried
    on weights that have moved.
    """
    kinds = _kinds_of(policy.model)
    if not kinds:
        return
    obstacle = next((_OUTSIDE[kind] for kind in kinds if kind in _OUTSIDE), "") or _difference(policy)
    if obstacle:
        raise UserError(
            f"model {policy.name}: its adapter ({', '.join(kinds)}) {obstacle}, which is not served; use one that "
            "lives in the layers, such as LoRA"
        )


def _kinds_of(model: object) -> list[str]:
    """Return PEFT's names of the kinds of a PEFT model's adapters, [] for another model."""
    configs = getattr(model, "peft_config", None)
    if not hasattr(model, "get_base_model") or not isinstance(configs, dict):
        return []
    return sorted({str(getattr(config.peft_type, "value", config.peft_type)) for config in configs.values()})


@torch.no_grad()
def _difference(policy: Policy) -> str:
    """Return what the PEFT model does that the model inside it does not, "" for nothing."""
    if any(getattr(config, "alora_invocation_tokens", None) for config in policy.model.peft_config.values()):
        return "waits for invocation tokens"
    inner, rows = policy.causal_lm, policy.model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(5 * i + 2) % rows for i in range(_TOKENS)]], device=policy.device)
    with resting(policy.model), moved(policy.model), policy.autocast():
        try:
            within = inner(input_ids=ids, use_cache=False).logits[0].float()
            prefix = inner(input_ids=ids[:, : _TOKENS // 2], use_cache=False).logits[0].float()
            whole = policy.model(input_ids=ids, use_cache=False).logits[0].float()
        # Every kind fails in a way of its own.
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            return f"does not run on a text alone ({first_line(error, 100)})"
    if whole.shape != within.shape or not _same(whole, within, policy):
        return "computes outside the model's layers"
    return "" if _same(prefix, within[: len(prefix)], policy) else "lets later tokens change what comes before them"


def _same(one: Tensor, other: Tensor, policy: Policy) -> bool:
    spread = (other - other.mean(dim=-1, keepdim=True)).norm()
    return not bool((one - other).norm() > _TOLERANCE.get(policy.compute_dtype, 0.1) * spread)
