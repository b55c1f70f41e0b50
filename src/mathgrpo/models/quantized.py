"""4-bit models of bitsandbytes: what must be set so that their gradients are right."""

from __future__ import annotations

from typing import Any

import torch

from mathgrpo.errors import UserError


def is_quantized(model: Any) -> bool:
    """Return whether a model's weights are quantised, so that only an adapter on it can train."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, "hf_quantizer", None) is not None or bool(linear4bit_layers(base))


def linear4bit_layers(model: Any) -> list[Any]:
    """Return the bitsandbytes 4-bit layers of a model."""
    return [module for module in model.modules() if type(module).__name__ == "Linear4bit" and _is_bnb(module)]


def prepare_quantized(model: Any, dtype: torch.dtype) -> None:
    """Make a 4-bit model's layers compute in `dtype`, with right gradients on every CPU.

    On a CPU with AVX512-BF16 a Linear4bit repacks its weights in the first forward pass in eval mode (a rollout), for
    a kernel without a backward pass; gradients computed after that read the packed bytes as if they were not, and are
    wrong without a word. Here layers are kept from it, and those already repacked are brought back.

    Raises: UserError when a layer stays repacked.
    """
    for layer in linear4bit_layers(model):
        layer.support_avx512bf16_for_cpu = False
        if _is_repacked(layer):
            layer.state_dict()  # bitsandbytes unpacks the weights in place to write them
        if _is_repacked(layer):
            raise UserError(
                "model: its 4-bit weights are packed for inference, with which gradients are wrong; load it again and "
                "do not generate with it before it is given to the trainer"
            )
        layer.compute_dtype = dtype
        layer.compute_type_is_set = True


def _is_repacked(layer: Any) -> bool:
    return bool(getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False))


def _is_bnb(module: Any) -> bool:
    return any(kind.__module__.startswith("bitsandbytes") for kind in type(module).__mro__)
