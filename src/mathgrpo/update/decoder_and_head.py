"""A causal LM in two: its decoder, and what turns hidden states into logits, which an update does chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from mathgrpo.models.policy import base_model

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_FACTORS = ("logit_scale", "lm_head_multiplier")
"""What configurations call a bound on the logits, and what they are multiplied by."""


def split_model(model: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """Return (decoder, head) of a causal LM, adapters included: head turns its hidden states into logits."""
    base = base_model(model)
    output_layer = base.get_output_embeddings()
    config = base.config.get_text_config()
    softcap = next(filter(None, (getattr(config, name, None) for name in _CAPS)), None)
    scale = prod(getattr(config, name, None) or 1.0 for name in _FACTORS)
    divisor = getattr(config, "logits_scaling", None) or 1.0
    scale *= divisor if config.model_type == "hyperclovax" else 1.0 / divisor

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = output_layer(hidden)
        logits = logits if scale == 1.0 else logits * scale
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    decoder = base.get_decoder()
    return decoder if decoder is not base else base.model, head  # Llama 4 says of itself that it is its decoder
