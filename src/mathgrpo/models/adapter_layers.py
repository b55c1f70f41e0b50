"""How adapters are read: which plain module computes in one, and with which weight, where that can be written down.

Each entry is for one exact class of PEFT. What is not here is refused by the fast paths and run by the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mathgrpo.models.policy import is_linear4bit
from mathgrpo.models.quantized import written_out

HOLDERS = {
    "torch.nn.modules.container.ModuleDict", "torch.nn.modules.container.ParameterDict",
    "peft.tuners._buffer_dict.BufferDict", "torch.nn.modules.dropout.Dropout", "torch.nn.modules.linear.Identity",
    "peft.tuners.trainable_tokens.layer.TrainableTokensLayer",
}  # fmt: skip
"""What may lie in a known wrapper beside the layers it chooses from."""


class NotServed(Exception):
    """A model is not, or no longer, one that a view can read; the message says why."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """How an adapter's module around a plain one is read.

    Attributes:
        base: the plain module that computes: its own, or the one that the adapter chooses.
        weight: the matrix or vector that it computes with.
        obstacle: why this one cannot be written down as a weight, "" if it can.
    """

    base: Callable[[Any], Any]
    weight: Callable[[Any], Tensor]
    obstacle: Callable[[Any], str] = lambda module: ""


def kind_of(module: Any) -> str:
    """Return a module's exact class by name; a bitsandbytes layer, which comes in many versions, by its own."""
    return "Linear4bit" if is_linear4bit(module) else f"{type(module).__module__}.{type(module).__qualname__}"


def is_wrapper(module: Any) -> bool:
    """Return whether a module is an adapter's around another, of a kind that is read here or not."""
    return "base_layer" in module._modules or "original_module" in module._modules or kind_of(module) in WRAPPERS


def inner_module(module: Any) -> Any:
    """Return the plain module inside a known wrapper, or the module itself."""
    wrapper = WRAPPERS.get(kind_of(module))
    return module if wrapper is None else wrapper.base(module)


def inner_weight(module: Any) -> Tensor:
    """Return the weight that a known wrapper computes with, or the one that a 4-bit layer stands for.

    Raises: NotServed where there is none.
    """
    if is_linear4bit(module):
        return written_out(module)
    wrapper = WRAPPERS.get(kind_of(module))
    obstacle = "" if wrapper is None else wrapper.obstacle(module)
    if wrapper is None or obstacle:
        raise NotServed(f"a {type(module).__name__} {f'with {obstacle} ' if obstacle else ''}is in the way")
    return wrapper.weight(module)


def _own_weight(module: Any) -> Tensor:
    weight: Tensor = written_out(module) if is_linear4bit(module) else module.weight
    return weight


def _is_off(module: Any) -> bool:
    """Return whether an adapter's module is switched off, or is in its base weight already."""
    return bool(module.disable_adapters or getattr(module, "merged", False) or not module.active_adapters)


def _switched_off_merged(module: Any) -> str:
    return "an adapter that is merged and switched off" if module.disable_adapters and module.merged else ""


def _lora_weight(module: Any) -> Tensor:
    """Return W + scale * B A for every active adapter; a 4-bit W is written out."""
    weight = _own_weight(module.base_layer)
    for adapter in () if _is_off(module) else module.active_adapters:
        if adapter in module.lora_A or adapter in module.lora_embedding_A:
            weight = weight + module.get_delta_weight(adapter)
    return weight


def _lora_obstacle(module: Any) -> str:
    if any(getattr(module, "lora_variant", {}).values()):
        return f"a variant of LoRA ({type(next(iter(module.lora_variant.values()))).__name__})"
    if any(getattr(module, "lora_bias", {}).values()):
        return "lora_bias"
    return _switched_off_merged(module)


def _saved_module(module: Any) -> Any:
    """Return the module that a ModulesToSaveWrapper runs."""
    active = module.active_adapters
    if _is_off(module) or any(adapter not in module.modules_to_save for adapter in active):
        return module.original_module
    return module.modules_to_save[active[0]]


def _tuned_norm(module: Any) -> Any:
    """Return the norm that an LNTuningLayer runs."""
    return module.base_layer if _is_off(module) else module.ln_tuning_layers[module.active_adapters[0]]


def _token_rows(layer: Any) -> Tensor:
    """Return the weight of a TrainableTokensLayer: the base's, with the trained rows in their places."""
    weight: Tensor = layer.base_layer.weight if _is_off(layer) else layer.get_merged_weights(layer.active_adapters)
    return weight


def _token_obstacle(layer: Any) -> str:
    bias = getattr(layer.base_layer, "bias", None) is not None
    return "a bias, which it leaves out" if bias else _switched_off_merged(layer)


_LORA = Wrapper(lambda module: module.base_layer, _lora_weight, _lora_obstacle)
WRAPPERS: dict[str, Wrapper] = {
    "peft.tuners.lora.layer.Linear": _LORA,
    "peft.tuners.lora.layer.Embedding": _LORA,
    "peft.tuners.lora.bnb.Linear4bit": _LORA,
    "peft.utils.other.ModulesToSaveWrapper": Wrapper(
        _saved_module, lambda module: _own_weight(_saved_module(module))
    ),
    "peft.tuners.ln_tuning.layer.LNTuningLayer": Wrapper(
        _tuned_norm, lambda module: _own_weight(_tuned_norm(module)), _switched_off_merged
    ),
    "peft.tuners.trainable_tokens.layer.TrainableTokensLayer": Wrapper(
        lambda module: module.base_layer, _token_rows, _token_obstacle
    ),
    "peft.utils.other.TrainableTokensWrapper": Wrapper(
        lambda module: module.token_adapter.base_layer,
        lambda module: _token_rows(module.token_adapter),
        lambda module: _token_obstacle(module.token_adapter),
    ),
}  # fmt: skip
"""Adapters that a weight can be written down for, by the exact class of their module."""
