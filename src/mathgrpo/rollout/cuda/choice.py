"""Whether the graph engine serves a policy: it must compute what the model computes, captured and replayed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch

from mathgrpo.errors import first_line
from mathgrpo.hardware.failure import pass_on
from mathgrpo.models import Policy
from mathgrpo.models.qwen_view import why_not_served
from mathgrpo.rollout.cuda.graph_engine import GraphEngine
from mathgrpo.rollout.cuda.kernels import Kernels, TorchKernels
from mathgrpo.rollout.decoder_trial import is_rounding, plain_logits, trial_prompts
from mathgrpo.types import Prompt, Sampling

_TRIAL_TOKENS = 12
"""More than one round of steps: the trial warms up, captures, replays and polls."""


def build_graph_engine(
    policy: Policy, *, max_rows: int = 0, triton: bool = True, graphs: bool = True
) -> tuple[GraphEngine | None, str]:
    """Return the engine and "", or None and why not; with Triton kernels where they pass their trial, else torch's."""
    obstacle = why_not_served(policy.causal_lm)
    if obstacle:
        return None, f"no CUDA graphs: {obstacle}"
    obstacles: list[str] = []
    for load in (_triton_kernels, TorchKernels) if triton else (TorchKernels,):
        engine, obstacle = _proven(load, policy, max_rows, graphs)
        if engine is not None:
            engine.reason = "; ".join([engine.reason, *obstacles])
            return engine, ""
        obstacles.append(obstacle)
    return None, "; ".join(obstacles)


def _triton_kernels() -> Kernels:
    from mathgrpo.rollout.cuda.triton_kernels import TritonKernels

    return TritonKernels()


def _proven(load: Callable[[], Kernels], policy: Policy, max_rows: int, graphs: bool) -> tuple[GraphEngine | None, str]:
    """Return an engine that passed its trial, or None and why; whatever a kernel or a capture raises is a no.

    Raises: UserError when the trial has lost the device: then no other engine can be tried in this process.
    """
    label = "torch operations" if load is TorchKernels else "Triton kernels"
    if load is _triton_kernels and importlib.util.find_spec("triton") is None:
        return None, "no Triton kernels: triton is not installed"
    try:
        kernels = load()
        reason = f"{'CUDA graphs' if graphs else 'eager steps'}, {kernels.name}"
        engine = GraphEngine(policy, kernels, max_rows=max_rows, graphs=graphs, reason=reason)
        difference = trial_difference(engine, policy)
    except Exception as error:
        pass_on(error, "run.engine=fast", "run.engine=plain")
        return None, f"CUDA graphs with {label} failed their trial ({type(error).__name__}: {first_line(error, 120)})"
    if engine.capture_error:
        return None, f"CUDA graphs with {label} were not captured ({engine.capture_error})"
    if not is_rounding(difference, policy):
        return None, f"CUDA graphs with {label} failed their trial (off by {difference:.1g} of the logits' spread)"
    return engine, ""


def trial_difference(engine: GraphEngine, policy: Policy) -> float:
    """Return how far the engine's log-probabilities are from the plain forward pass, in units of the logits' spread.

    Two prompts of 3 and 6 tokens, two sampled rows each.
    """
    prompts = [Prompt(tuple(ids), key=number) for number, ids in enumerate(trial_prompts(policy), start=1)]
    groups = engine.generate(prompts, 2, Sampling(max_new_tokens=min(_TRIAL_TOKENS, policy.max_context - 6)))
    worst = 0.0
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            logits = plain_logits(policy, [*prompt.ids, *completion.ids])[len(prompt.ids) - 1 : -1]
            ids = torch.tensor(completion.ids, device=logits.device)
            expected = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
            got = torch.tensor(completion.logprobs, device=logits.device)
            off = float((got - expected).abs().max() / logits.std().clamp_min(1e-6))
            worst = off if not off <= worst else worst
    return worst
