"""The reference policy of the KL term."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from mathgrpo.models import Policy


@dataclass(frozen=True, slots=True)
class Reference:
    """The policy as it was before training.

    Attributes:
        model: a frozen copy of the policy's model; or the policy's own model, when it trains an adapter that can be
            switched off, which needs no copy.
        adapter_off: whether it is the policy's own model.
    """

    model: Any
    adapter_off: bool


def build_reference(policy: Policy, beta: float) -> Reference | None:
    """Return the reference for a KL weight: None for 0, the adapter switched off where that undoes it, else a copy.

    The copy is held in the policy's compute precision, so in bfloat16 it takes half the memory of the fp32 masters.
    """
    if beta == 0.0:
        return None
    if hasattr(policy.model, "disable_adapter") and hasattr(policy.model, "peft_config") and not _trains_base(policy):
        return Reference(policy.model, adapter_off=True)
    model = copy.deepcopy(policy.model).requires_grad_(False).eval()
    return Reference(model.to(policy.compute_dtype), adapter_off=False)


def _trains_base(policy: Policy) -> bool:
    """Return whether an adapter trains biases of the model under it, which switching it off does not bring back."""
    return any(getattr(config, "bias", "none") != "none" for config in policy.model.peft_config.values())
