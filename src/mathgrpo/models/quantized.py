"""4-bit models of bitsandbytes: how they are made, written out, and kept so that their gradients are right."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError
from mathgrpo.models.policy import base_model, is_linear4bit


def quantization_config(section: ModelSection, dtype: torch.dtype) -> Any:
    """Return transformers' configuration for a recipe's quantisation, None for "none".

    NF4 and double quantisation: Dettmers et al. 2023, QLoRA, section 3. dtype: precision of the layers' products.
    Raises: UserError without bitsandbytes.
    """
    if section.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.quantization={section.quantization}: needs bitsandbytes, which is not installed; "
            'run: pip install "mathgrpo[qlora]", or use model.quantization=none'
        )
    import transformers

    kind: Any = transformers.BitsAndBytesConfig
    return kind(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip


def is_quantized(model: Any) -> bool:
    """Return whether a model's weights are quantised, so that only an adapter on it can train."""
    base = base_model(model)
    return getattr(base, "hf_quantizer", None) is not None or bool(linear4bit_layers(base))


def linear4bit_layers(model: Any) -> list[Any]:
    """Return the bitsandbytes 4-bit layers of a model."""
    return [module for module in model.modules() if is_linear4bit(module)]


@torch.no_grad()
def written_out(layer: Any) -> Tensor:
    """Return the matrix that a 4-bit layer stands for, in the precision it was quantised from, [out, in].

    Raises: UserError when the layer is not quantised yet.
    """
    from bitsandbytes.functional import dequantize_4bit

    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        raise UserError("model: a 4-bit layer holds no 4-bit weights yet; load the model on its device first")
    matrix: Tensor = dequantize_4bit(layer.weight.data, state)
    return matrix


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
