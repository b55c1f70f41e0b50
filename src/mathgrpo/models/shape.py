"""A model's shape: counted from its config alone, or by its layers and parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.hardware.flops import ModelShape
from mathgrpo.models.locate import adapter_base, locate_model
from mathgrpo.models.lora import attach_adapter
from mathgrpo.models.policy import base_model


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a memory plan needs to know of a model.

    Attributes:
        parameters, trainable: numbers of weights.
        matrices: weights in the layers' matrices, which the compute precision holds a second time.
        quantized: weights kept in 4 bits.
        layers, hidden, feed_forward, vocabulary: sizes by their usual names.
        query_width, key_width: all query heads together, all key-value heads together.
    """

    parameters: int
    trainable: int
    matrices: int
    layers: int
    hidden: int
    feed_forward: int
    query_width: int
    key_width: int
    vocabulary: int
    quantized: int = 0


def head_shape(config: Any) -> tuple[int, int, int]:
    """Return (query heads, key-value heads, head size) of a text config."""
    heads = layer_value(config, "num_attention_heads")
    key_heads = layer_value(config, "num_key_value_heads") or heads
    return heads, key_heads, layer_value(config, "head_dim") or config.hidden_size // heads


def layer_value(config: Any, name: str) -> Any:
    """Return what a text config says of its layers, None when it says nothing; the largest where they differ."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # Gemma 4: transformers names no value for all
        values = (getattr(layer, name, None) for layer in config.per_layer_config)
        return max((value for value in values if value), default=None)


def model_sizes(model: Any) -> ModelSizes | None:
    """Return the sizes of a causal LM, or of a PEFT model around one; None when its config does not say its shape.

    Works on a model on the meta device too, which takes no memory.
    """
    base = base_model(model)
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    if not all(layer_value(config, name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")):
        return None
    heads, key_heads, head_dim = head_shape(config)
    counts = count_parameters(model)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return ModelSizes(
        parameters=counts.total,
        trainable=counts.trainable,
        matrices=sum(num_weights(m.weight) for m in linears),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        feed_forward=layer_value(config, "intermediate_size")
        or getattr(config, "n_inner", None)
        or 4 * config.hidden_size,
        query_width=heads * head_dim,
        key_width=key_heads * head_dim,
        vocabulary=config.vocab_size,
        quantized=counts.quantized,
    )


def model_shape(model: Any, itemsize: int) -> ModelShape:
    """Return what is counted of a causal LM's work, or of that of a PEFT model around one.

    itemsize: bytes of a number in the compute precision. Quantised weights count with the bytes they have.
    The weights must be countable, see `why_uncountable`.
    """
    base = base_model(model)
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    linears = [module.weight for module in model.modules() if module is not head and _is_linear(module)]
    heads, key_heads, head_dim = head_shape(config)
    head_weights = config.hidden_size * config.vocab_size
    return ModelShape(
        linear=sum(num_weights(weight) for weight in linears),
        trained_linear=sum(num_weights(weight) for weight in linears if weight.requires_grad),
        head=head_weights,
        trained_head=head_weights if head.weight.requires_grad else 0,
        attention=config.num_hidden_layers * heads * head_dim,
        linear_bytes=sum(_weight_bytes(weight, itemsize) for weight in linears),
        head_bytes=head_weights * itemsize,
        kv_bytes=2 * config.num_hidden_layers * key_heads * head_dim * itemsize,
    )


def why_uncountable(model: Any) -> str:
    """Return why the formulas of `hardware.flops` do not fit a model; "" when they do."""
    base = base_model(model)
    config = base.config.get_text_config()
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
    if any(not layer_value(config, name) for name in names) or base.get_output_embeddings() is None:
        return "its configuration does not say its shape"
    if any((getattr(config, name, None) or 0) > 1 for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return "only some of its experts compute a token"
    if config is not base.config:
        return "it has parts that text does not pass"
    layers = getattr(config, "layer_types", None)
    window, context = layer_value(config, "sliding_window"), getattr(config, "max_position_embeddings", None)
    if set(layers) != {"full_attention"} if layers else window and context and window < context:
        return "not all of its layers attend to the whole context"
    return ""


def _is_linear(module: Any) -> bool:
    """Return whether a module is a matrix product: a linear layer (an adapter's, a 4-bit one), GPT-2's transposed one.

    PEFT's layer around one has no weight of its own.
    """
    return "weight" in module._parameters and (hasattr(module, "in_features") or hasattr(module, "nf"))


def _weight_bytes(weight: Any, itemsize: int) -> int:
    return num_weights(weight) * itemsize if weight.is_floating_point() else int(weight.numel() * weight.element_size())


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters of a model by what happens to them; tied weights count once.

    Attributes:
        total: all, adapters included.
        trainable: what the optimizer changes.
        quantized: kept in 4 bits.
    """

    total: int
    trainable: int
    quantized: int


def count_parameters(model: Any) -> ParameterCounts:
    """Return the counts of a model. A 4-bit matrix counts with the numbers it stands for, not with its bytes."""
    parameters = list(model.parameters())
    packed = [parameter for parameter in parameters if is_packed(parameter)]
    return ParameterCounts(
        total=sum(num_weights(parameter) for parameter in parameters),
        trainable=sum(num_weights(parameter) for parameter in parameters if parameter.requires_grad),
        quantized=sum(num_weights(parameter) for parameter in packed),
    )


def num_weights(parameter: Any) -> int:
    """Return how many numbers a parameter stands for."""
    return int(prod(parameter.quant_state.shape) if is_packed(parameter) else parameter.numel())


def is_packed(parameter: Any) -> bool:
    """Return whether a parameter holds 4-bit numbers, two in a byte."""
    return getattr(parameter, "quant_state", None) is not None


def outline(section: ModelSection) -> tuple[str, ParameterCounts]:
    """Return the class in transformers and the counts, a fresh adapter's included, of the model a recipe names.

    Its code, where it brings any, is not run.

    Raises: UserError when its config is not on this machine, or the adapter does not fit it.
    """
    model: Any = hollow_model(section)
    architecture = type(model).__name__
    quantized = 0
    if section.quantization != "none":
        head = model.get_output_embeddings()
        linears = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
        quantized = sum(module.weight.numel() for module in linears)
    if section.lora is not None:
        with torch.device("meta"):
            model = attach_adapter(model, section.lora)
    return architecture, replace(count_parameters(model), quantized=quantized)


def hollow_model(section: ModelSection) -> Any:
    """Return the model without weights: on the "meta" device, where tensors have shapes and no content."""
    from transformers import AutoConfig, AutoModelForCausalLM

    location = locate_model(section.path)
    base = adapter_base(location) or location
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=not Path(base).is_dir(), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"model.path={section.path}: its shape cannot be told on this machine ({first_line(error)}); give a "
            "model folder, or download it first"
        ) from None


def sizes_ahead(section: ModelSection) -> ModelSizes | None:
    """Return the sizes of a recipe's model before any weight is read; None where only loading tells."""
    if section.trust_remote_code:  # its code is only run to load it
        return None
    try:
        sizes = model_sizes(hollow_model(section))
    # Whatever is wrong with the model is told by loading it, with the remedy.
    except Exception:
        return None
    if sizes is None or section.lora is None:
        return sizes
    return replace(sizes, trainable=0, quantized=0 if section.quantization == "none" else sizes.matrices)
