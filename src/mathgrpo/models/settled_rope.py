"""Rotary embeddings that change with the length of a text, settled for a run."""

from __future__ import annotations

from typing import Any

from torch import nn

_SETTLED = "settled"
"""A kind of rotary embedding for which transformers' modules have no rule, so that they leave the angles alone."""


def settle_rope(model: nn.Module, longest: int) -> bool:
    """Give a model the rotary embedding of texts of `longest` tokens for good; return whether it is that of long ones.

    LongRoPE and dynamic NTK turn by other angles once a text is longer than the model was pretrained on. What was drawn
    before that length would come from another policy than the one that learns from it, and a batch would turn by its
    longest row. So a model that meets longer texts has the angles of long ones from then on, in short ones too, as in
    vLLM. Where no text is that long nothing changes.
    """
    settled = [_settle(rotary, longest) for rotary in _changing(model)]
    return any(settled)


def steady_length(model: nn.Module) -> int:
    """Return the tokens up to which no rotary embedding of a model changes; 0 when none ever does."""
    switches = (
        _pretrained(rotary, kind, layer) for rotary in _changing(model) for layer, kind in _kinds(rotary).items()
    )
    return min(filter(None, switches), default=0)


def stretched_length(config: Any) -> int:
    """Return the longest text of a text configuration, 0 for any: dynamic NTK stretches what it was pretrained on.

    Example: 2,048 positions with {"rope_type": "dynamic", "factor": 4.0} are 8,192.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    factor = rope.get("factor", 1.0) if rope.get("rope_type") == "dynamic" else 1.0
    limits = (
        getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "max_target_positions")
    )
    return int(next(filter(None, limits), 0) * factor)


def _kinds(rotary: Any) -> dict[str | None, str]:
    """Return the kind of a module's angles by type of layer; None: of all."""
    kinds = getattr(rotary, "rope_type", None)
    return dict(kinds) if isinstance(kinds, dict) else {None: kinds} if isinstance(kinds, str) else {}


def _changing(model: nn.Module) -> list[Any]:
    """Return the modules with transformers' rule for changing angles around their forward pass, settled ones too."""
    ruled = (m for m in model.modules() if hasattr(type(m).forward, "__wrapped__") and hasattr(m, "config"))
    return [module for module in ruled if any(map(_is_changing, _kinds(module).values()))]


def _is_changing(kind: str) -> bool:
    return kind in ("longrope", _SETTLED) or "dynamic" in kind


def _pretrained(rotary: Any, kind: str, layer: str | None) -> int:
    """Return the length beyond which some angles are others, 0 when they never are."""
    if kind == "longrope":
        return int(_rope(rotary, layer)["original_max_position_embeddings"])
    return int(rotary.config.max_position_embeddings) if "dynamic" in kind else 0


def _rope(rotary: Any, layer: str | None) -> dict[str, Any]:
    parameters: dict[Any, Any] = rotary.config.rope_parameters
    return parameters if layer is None else parameters[layer]


def _settle(rotary: Any, longest: int) -> bool:
    """Settle one module; return whether any of its angles are those of long texts."""
    kinds = {layer: _settled_kind(rotary, kind, layer, longest) for layer, kind in _kinds(rotary).items()}
    rotary.rope_type = kinds.get(None, kinds)
    return _SETTLED in kinds.values()


def _settled_kind(rotary: Any, kind: str, layer: str | None, longest: int) -> str:
    """Return the kind that some angles are from now on, and write those of long texts where they are needed."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    pretrained = _pretrained(rotary, kind, layer)
    if not pretrained or longest <= pretrained:
        return kind
    length = pretrained + 1 if kind == "longrope" else int(pretrained * _rope(rotary, layer).get("factor", 1.0))
    name = "inv_freq" if layer is None else f"{layer}_inv_freq"
    device = getattr(rotary, name).device
    angles, _ = ROPE_INIT_FUNCTIONS[kind](rotary.config, device, seq_len=length, layer_type=layer)
    setattr(rotary, name, angles)
    return _SETTLED
