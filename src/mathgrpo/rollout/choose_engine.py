"""The choice of a rollout engine: the fastest that proves itself, or the one that is asked for."""

from __future__ import annotations

from typing import Literal

from mathgrpo.config.recipe import VllmSection
from mathgrpo.hardware.cuda_care import pass_on
from mathgrpo.hardware.device_memory import free_bytes
from mathgrpo.models import Policy
from mathgrpo.models.quantized import linear4bit_layers
from mathgrpo.models.qwen_view import why_not_served
from mathgrpo.rollout.c.c_decoder import CompiledDecoder, why_not_compiled
from mathgrpo.rollout.cuda.graph_engine import build_graph_engine
from mathgrpo.rollout.decoder import Decoder, is_rounding, trial_difference
from mathgrpo.rollout.engine import Engine, NativeEngine
from mathgrpo.rollout.hf.cached_decoder import CachedDecoder
from mathgrpo.rollout.hf.generate_engine import GenerateEngine
from mathgrpo.rollout.torch_ops.torch_decoder import FusedDecoder

_WRITTEN_OUT = ", 4-bit matrices written out for each rollout"


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
) -> Engine:
    """Return the engine that draws this policy's completions: "fast", "plain" or "vllm".

    fast: the fastest that proves itself on two short prompts of different length, where its logits must equal the
    plain forward pass. plain: the model's own forward pass with a cache. Where neither serves (recurrent models),
    transformers' `generate` does. vllm: as its settings say.

    max_rows bounds the rows decoded at once; 0 decodes all. The other switches are for tests and benchmarks:
    compiled=False leaves out the decoder compiled for this CPU, graphs=False CUDA graphs, triton=False Triton kernels,
    dequantize=False every decoder that writes a 4-bit model's matrices out.

    Raises: UserError when "vllm" cannot run.
    """
    if kind == "vllm":
        from mathgrpo.rollout.vllm import build_vllm_engine

        return build_vllm_engine(policy, vllm or VllmSection(), max_rows)
    obstacles: list[str] = []
    quantized = bool(linear4bit_layers(policy.model))
    builders = [_compiled, _fused, _cached] if compiled else [_fused, _cached]
    if kind == "plain" or (quantized and not dequantize):
        graphs, builders = False, [_cached]
    if graphs and policy.device.startswith("cuda"):
        engine, obstacle = build_graph_engine(policy, max_rows=max_rows, triton=triton)
        if engine is not None:
            engine.reason += _WRITTEN_OUT if quantized else ""
            return engine
        obstacles.append(obstacle)
    for build in builders:
        decoder, obstacle = build(policy)
        if decoder is not None:
            how = _WRITTEN_OUT if quantized and build is not _cached else ""
            reason = "; ".join(filter(None, [decoder.name + how, *obstacles]))
            return NativeEngine(policy, decoder, max_rows=max_rows, reason=reason)
        obstacles.append(obstacle)
    reason = "; ".join(filter(None, ["transformers generate, slow", *obstacles]))
    return GenerateEngine(policy, max_rows=max_rows, reason=reason)


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
    for build in (_compiled, _fused):
        decoder, obstacle = build(policy, frozen=frozen)
        if decoder is not None:
            return decoder, "; ".join(filter(None, [decoder.name, *obstacles]))
        obstacles.append(obstacle)
    return None, "; ".join(filter(None, obstacles))


def _compiled(policy: Policy, *, frozen: bool = False) -> tuple[Decoder | None, str]:
    """Return the compiled decoder, or why a policy that it should serve goes without it."""
    if policy.device != "cpu" or why_not_served(policy.causal_lm):
        return None, ""
    obstacle = why_not_compiled(policy)
    if obstacle:
        return None, f"no compiled decoder: {obstacle}"
    return _proven(CompiledDecoder(policy, frozen=frozen), policy)


def _fused(policy: Policy, *, frozen: bool = False) -> tuple[Decoder | None, str]:
    obstacle = why_not_served(policy.causal_lm)
    if obstacle:
        return None, f"no fused decoder: {obstacle}"
    return _proven(FusedDecoder(policy, frozen=frozen), policy)


def _cached(policy: Policy) -> tuple[Decoder | None, str]:
    if getattr(policy.causal_lm, "_is_stateful", False):
        return None, "no slot cache: the model keeps a recurrent state"
    return _proven(CachedDecoder(policy), policy)


def _proven(decoder: Decoder, policy: Policy) -> tuple[Decoder | None, str]:
    """Return the decoder if its logits equal the plain forward pass, else None and why.

    An architecture unknown to us can fail in any way of its own, so every exception of the trial counts as
    "does not serve it"; memory errors are not about the architecture and pass through.
    """
    try:
        difference = trial_difference(decoder, policy)
    except Exception as error:
        pass_on(error, "run.engine=fast", "run.engine=plain")
        return None, f"{decoder.name} failed its trial ({type(error).__name__})"
    if not is_rounding(difference, policy):
        return None, f"{decoder.name} failed its trial (logits off by {difference:.1g} of their spread)"
    return decoder, ""
