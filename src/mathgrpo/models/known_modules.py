"""What a view may read: modules whose exact class is known, with nothing hanging on them, plain or in a known wrapper.

A white list. A subclass, a parametrisation, a hook, a replaced forward or an adapter of any other kind changes what a
module computes without changing the weight that lies in it, so whatever is not listed here is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from mathgrpo.models.adapter_layers import HOLDERS, WRAPPERS, kind_of
from mathgrpo.models.module_weights import plain_module
from mathgrpo.models.policy import is_linear4bit

_SERVED = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM")
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")
_MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
_LINEAR, _EMBEDDING = "torch.nn.modules.linear.Linear", "torch.nn.modules.sparse.Embedding"
_SILU = ("transformers.activations.SiLUActivation", "torch.nn.modules.activation.SiLU")
_IDLE_HOOKS = ("output_capturing_hook", "make_inputs_require_grads")
"""Hooks of transformers that leave a module's output as it is."""


def why_not_served(model: Any) -> str:
    """Return why a causal LM has no such view, or "" when it has."""
    kind, config = type(model).__name__, model.config
    if kind not in _SERVED or not type(model).__module__.startswith("transformers.models."):
        return f"{kind} is not in the Qwen2/Qwen3/Llama family"
    if any(layer_type != "full_attention" for layer_type in getattr(config, "layer_types", None) or ()):
        return "it has sliding-window layers"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type not in _FIXED_ROPE:
        return f"its rotary embedding ({rope_type}) changes with the length"
    return why_unknown(model)


def why_unknown(model: Any, *, wrapped: bool = True) -> str:
    """Return which part of a Qwen2, Qwen3 or Llama model a view may not read, and why; "" when it may read all.

    wrapped: known adapters count as readable.
    """
    if _global_forward_hooks or _global_forward_pre_hooks:
        return "there are hooks for all modules, which would not run"
    for path, kinds in _expected(model):
        module = model.get_submodule(path)
        obstacle = _obstacle(module, kinds, wrapped=wrapped)
        if obstacle:
            return f"{path or 'the model'} {obstacle}"
    return _odd_number(model)


def why_not_plain(module: Any) -> str:
    """Return why a module's output is not its effective weight at work, "" if it is: for models of any family."""
    return _obstacle(module, (kind_of(plain_module(module)),), wrapped=True)


def _expected(model: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield path and allowed classes of every module that takes part in the model's forward pass."""
    home, family = type(model).__module__, type(model).__name__.removesuffix("ForCausalLM")
    norm, linear = (f"{home}.{family}RMSNorm",), (_LINEAR, "Linear4bit")
    yield "", (f"{home}.{family}ForCausalLM",)
    yield "model", (f"{home}.{family}Model",)
    yield "model.embed_tokens", (_EMBEDDING,)
    yield "model.rotary_emb", (f"{home}.{family}RotaryEmbedding",)
    yield "model.norm", norm
    yield "lm_head", linear
    yield "model.layers", ("torch.nn.modules.container.ModuleList",)
    for i, layer in enumerate(model.model.layers):
        at = f"model.layers.{i}"
        yield at, (f"{home}.{family}DecoderLayer",)
        yield f"{at}.self_attn", (f"{home}.{family}Attention",)
        yield f"{at}.mlp", (f"{home}.{family}MLP",)
        yield f"{at}.mlp.act_fn", _SILU
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{part}", norm
        if hasattr(layer.self_attn, "q_norm"):
            for part in ("self_attn.q_norm", "self_attn.k_norm"):
                yield f"{at}.{part}", norm
        for part in _MATRICES:
            yield f"{at}.{part}", linear


def _obstacle(module: Any, kinds: tuple[str, ...], *, wrapped: bool) -> str:
    """Return what keeps a module from being read as one of these classes, "" if nothing does."""
    found = kind_of(module)
    if found in kinds:
        return _hanging(module) or _odd_weight(module)
    wrapper = WRAPPERS.get(found)
    if wrapper is None or not wrapped:
        return f"is a {type(module).__name__}"
    if wrapper.obstacle(module):
        return f"is a {type(module).__name__} with {wrapper.obstacle(module)}"
    for part in (module, *module.modules()):
        if part is not module and kind_of(part) not in {*kinds, *HOLDERS, _LINEAR}:
            return f"is a {type(module).__name__} around a {type(part).__name__}"
        hanging = _hanging(part) or _odd_weight(part)
        if hanging:
            return hanging
    return ""


def _hanging(module: Any) -> str:
    """Return what makes a module of a known class compute something else than its class, "" if nothing does."""
    if "forward" in vars(module):
        return "has a forward pass that was replaced"
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    for hook in hooks:
        idle = getattr(hook, "__name__", "") in _IDLE_HOOKS and str(hook.__module__).startswith("transformers.")
        if not idle:
            return "has hooks, which would not run"
    forward = type(module).forward
    if getattr(forward, "__module__", "") not in {kind.__module__ for kind in type(module).__mro__}:
        return f"has a forward pass that was replaced in {type(module).__name__}"
    return ""


def _odd_weight(module: Any) -> str:
    """Return what makes reading a module's own parameters something else than computing with them."""
    if getattr(module, "max_norm", None) is not None:
        return "changes its weight as it is read (max_norm)"
    for weight in module._parameters.values():
        if weight is not None and type(weight) is not nn.Parameter and not is_linear4bit(module):
            return f"keeps its weight as a {type(weight).__name__}"
    return ""


def _odd_number(model: Any) -> str:
    """Return which layer has another scale, head size or epsilon than the model, of which a view keeps one each."""
    first, epsilon = model.model.layers[0].self_attn, model.config.rms_norm_eps
    for name, module in model.named_modules():
        if hasattr(module, "variance_epsilon") and module.variance_epsilon != epsilon:
            return f"{name} has an epsilon of its own"
    for i, layer in enumerate(model.model.layers):
        own = layer.self_attn
        if (own.scaling, own.head_dim) != (first.scaling, first.head_dim):
            return f"model.layers.{i}.self_attn has a scale or head size of its own"
    return ""
