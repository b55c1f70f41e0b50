"""A model's shape from its config alone: parameters counted and kinds told before a weight is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.models.count import ParameterCounts, num_weights
from mathgrpo.models.locate import adapter_base, locate_model
from mathgrpo.models.lora import attach_adapter
from mathgrpo.models.shape import ModelSizes, model_sizes


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
    parameters = list(model.parameters())
    return architecture, ParameterCounts(
        total=sum(num_weights(each) for each in parameters),
        trainable=sum(num_weights(each) for each in parameters if each.requires_grad),
        quantized=quantized,
    )


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
