"""The choice of a rollout engine: the fastest that proves itself, or the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import torch

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.hardware.cuda_care import pass_on
from mathgrpo.hardware.device_memory import free_bytes
from mathgrpo.models import Policy
from mathgrpo.models.known_modules import why_not_served
from mathgrpo.models.quantized import linear4bit_layers
from mathgrpo.rollout.c.c_decoder import compiled_decoder
from mathgrpo.rollout.c.library import why_not_compiled
from mathgrpo.rollout.cuda.graph_engine import build_graph_engine
from mathgrpo.rollout.decoder import Decoder
from mathgrpo.rollout.engine import Engine, NativeEngine
from mathgrpo.rollout.hf.cached_decoder import cached_decoder
from mathgrpo.rollout.hf.grouped_decoder import grouped_decoder
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.rollout.trial import proven, trial_difference
from mathgrpo.text import number

_WRITTEN_OUT = ", 4-bit matrices written out for each rollout"

_Builder: TypeAlias = "Callable[[Policy, bool], Decoder | str]"
"""(policy, frozen) -> a decoder that should serve it, or why it does not: "" where nobody would expect it to."""


def build_engine(
    policy: Policy,
    kind: Literal["fast", "plain", "vllm"] = "fast",
    max_rows: int = 0,
    compiled: bool = True,
    *,
    graphs: bool = True,
    triton: bool = True,
    dequantize: bool = True,
    vllm: VllmSection | None = None,
    longest: int = 0,
) -> Engine:
    """Return the engine that draws this policy's completions: "fast", "plain" or "vllm".

    fast: the fastest that proves itself on two short prompts of different length and on weights that have moved, where
    its log-probabilities must equal the plain forward pass. plain: the model's own forward pass with a cache. Where
    neither serves (recurrent models), the model goes prompt by prompt. vllm: as its settings say.

    max_rows bounds the rows decoded at once; 0 decodes all. longest: tokens of the longest text to come, prompt and
    completion; where a model does in long texts what it does not in short ones, that is proven too. The other switches
    are for tests and benchmarks: compiled=False leaves out the decoder compiled for this CPU, graphs=False CUDA graphs,
    triton=False Triton kernels, dequantize=False every decoder that writes a 4-bit model's matrices out.

    Raises: UserError when "vllm" cannot run, or no way of drawing tokens is the model's own.
    """
    if kind == "vllm":
        from mathgrpo.rollout.vllm import build_vllm_engine

        return build_vllm_engine(policy, vllm or VllmSection(), max_rows)
    obstacles: list[str] = []
    quantized = bool(linear4bit_layers(policy.model))
    fast = kind == "fast" and (dequantize or not quantized)
    if fast and graphs and policy.device.startswith("cuda"):
        engine, obstacle = build_graph_engine(policy, max_rows=max_rows, triton=triton)
        if engine is not None:
            engine.plain = lambda: NativeEngine(policy, plain_decoder(policy, [], longest), max_rows=max_rows)
            engine.reason += _WRITTEN_OUT if quantized else ""
            return engine
        obstacles.append(obstacle)
    decoder = _first_proven(policy, _FAST if compiled else _FAST[1:], obstacles, longest=longest) if fast else None
    how = _WRITTEN_OUT if decoder is not None and quantized else ""
    plain = None if decoder is None else partial(plain_decoder, policy, [], longest)
    decoder = decoder or plain_decoder(policy, obstacles, longest)
    return NativeEngine(policy, decoder, max_rows=max_rows, reason=_reason(decoder.name + how, obstacles), plain=plain)


def build_decoder(policy: Policy, *, frozen: bool = False) -> tuple[Decoder | None, str]:
    """Return the fastest decoder that is faster than the plain forward pass, proven against it, and how it decodes.

    None and why when none serves the policy. frozen: the weights no longer change, so they are laid out once, not anew
    for each session.
    """
    needed = sum(weight.numel() for weight in policy.model.parameters()) * policy.compute_dtype.itemsize
    free = free_bytes(policy.device)
    if free is not None and needed > free:
        return None, f"a second copy of the weights needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    obstacles: list[str] = []
    decoder = _first_proven(policy, _FAST, obstacles, frozen=frozen)
    return decoder, _reason(decoder.name if decoder else "", obstacles)


def plain_decoder(policy: Policy, obstacles: list[str], longest: int = 0) -> Decoder:
    """Return what decodes any policy by the model's own forward pass; why it is not the faster one, into obstacles.

    Raises: UserError when not even rows read anew for every token are drawn by what the model says of them.
    """
    decoder = _first_proven(policy, (_cached, _grouped), obstacles, longest=longest)
    if decoder is None:
        decoder = grouped_decoder(policy, remember=False)
        _require_own_tokens(policy, decoder)
    return decoder


_HOPELESS = {torch.float32: 0.01}
"""Share of the logits' spread by which float32 is never off; 0.5 in 16 bits, where another expert may be chosen."""


def _require_own_tokens(policy: Policy, decoder: Decoder) -> None:
    """Raise UserError when the model's own forward pass fails, or says else of a token in a whole text than before."""
    name = f"model.path={policy.name}: {type(policy.causal_lm).__name__}"
    try:
        difference = trial_difference(NativeEngine(policy, decoder), policy)
    except Exception as error:
        pass_on(error, "run.engine=plain", "run.device=cpu")
        raise UserError(
            f"{name}'s own forward pass fails ({type(error).__name__}: {first_line(error, 120)}); its code, its "
            "configuration and its weights do not fit together here; use another model"
        ) from error
    if not difference <= _HOPELESS.get(policy.compute_dtype, 0.5):
        raise UserError(
            f"{name} says else of a token in a whole text than when it drew it (off by {number(difference, 1)} of the "
            "logits' spread), so it cannot learn from its own texts; use another model"
        )


def _first_proven(
    policy: Policy, builders: tuple[_Builder, ...], obstacles: list[str], *, frozen: bool = False, longest: int = 0
) -> Decoder | None:
    """Return the first decoder that serves the policy; append to obstacles why those before it do not."""
    for build in builders:
        decoder = build(policy, frozen)
        if not isinstance(decoder, str):
            engine, failure = proven(partial(NativeEngine, policy, decoder), policy, longest, frozen=frozen)
            if engine is not None:
                return decoder
            decoder = f"{decoder.name} failed its trial ({failure})"
        obstacles.append(decoder)
    return None


def _reason(how: str, obstacles: list[str]) -> str:
    return "; ".join(filter(None, [how, *obstacles]))


def _compiled(policy: Policy, frozen: bool) -> Decoder | str:
    if policy.device != "cpu" or why_not_served(policy.causal_lm):
        return ""
    obstacle = why_not_compiled(policy)
    return f"no compiled decoder: {obstacle}" if obstacle else compiled_decoder(policy, frozen=frozen)


def _fused(policy: Policy, frozen: bool) -> Decoder | str:
    obstacle = why_not_served(policy.causal_lm)
    return f"no fused decoder: {obstacle}" if obstacle else fused_decoder(policy, frozen=frozen)


def _cached(policy: Policy, frozen: bool) -> Decoder | str:
    if getattr(policy.causal_lm, "_is_stateful", False):
        return "no slot cache: the model keeps a recurrent state"
    return cached_decoder(policy)


def _grouped(policy: Policy, frozen: bool) -> Decoder | str:
    return grouped_decoder(policy)


_FAST: tuple[_Builder, ...] = (_compiled, _fused)
