"""The trial of an engine: what it says of the tokens it draws must be what the plain forward pass says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from inspect import signature
from typing import TypeVar

import torch
from torch import Tensor

from mathgrpo.errors import first_line
from mathgrpo.hardware.cuda_care import pass_on
from mathgrpo.models import Policy
from mathgrpo.models.long_texts import telling_length
from mathgrpo.models.moved_weights import moved
from mathgrpo.models.policy import resting
from mathgrpo.rollout.engine import Engine
from mathgrpo.text import number
from mathgrpo.types import Prompt, Sampling

_TRIAL_TOKENS = 12
"""More than one round of steps: memory is read and grown, and graphs warm up, are captured, replayed and polled."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2}
"""Share of the logits' spread. In float32 rounding makes 1e-5 of it at most in any family; a recurrent cache that goes
on otherwise than the model does in a whole text, 4e-4 and more."""
_COARSE = 1e-3
"""The same in float32 where matrix products are allowed to round more (TF32)."""
_ROUNDINGS = 3.0
"""A decoder rounds elsewhere than the model's modules do, so it may be off by more than they are themselves."""


_Made = TypeVar("_Made", bound=Engine)


def proven(
    make: Callable[[], _Made], policy: Policy, longest: int = 0, *, frozen: bool = False
) -> tuple[_Made | None, str]:
    """Return an engine that draws from the model's own distribution, else None and in which way it failed.

    It is tried on weights that have moved; on those that are there if they are frozen, which it may keep.

    longest: tokens of the longest text to come, prompt and completion, as far as it is known.
    An architecture unknown to us can fail in any way of its own, so every exception of the trial counts as
    "does not serve it"; memory errors are not about the architecture and pass through.

    Raises: UserError when the trial has lost the device: then no other engine can be tried in this process.
    """
    try:
        with nullcontext() if frozen else moved(policy.model):
            engine = make()
            difference = trial_difference(engine, policy, telling_length(policy.model, longest))
            fits = is_rounding(difference, policy)
    except Exception as error:
        pass_on(error, "run.engine=fast", "run.engine=plain")
        return None, f"{type(error).__name__}: {first_line(error, 120)}"
    if not fits:
        return None, f"off by {number(difference, 1)} of the logits' spread"
    return engine, ""


def is_rounding(difference: float, policy: Policy) -> bool:
    """Return whether a difference, as a share of the logits' spread, is what rounding explains; NaN never is.

    In 16 bits that depends on the model: logits that are large beside their spread are rounded coarsely. What passes
    the usual bound passes; beyond it the model's own rounding is measured.
    """
    coarse = policy.compute_dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    if difference <= (_COARSE if coarse else _TOLERANCE.get(policy.compute_dtype, 6e-2)):
        return True
    return policy.compute_dtype != torch.float32 and difference <= _ROUNDINGS * rounding_difference(policy)


def rounding_difference(policy: Policy) -> float:
    """Return how far the plain forward pass in the compute precision is from one in float32, as share of the spread.

    The largest difference over the two prompts of a trial.
    """
    exact = replace(policy, compute_dtype=torch.float32)
    rounded, plain = (torch.cat([plain_logits(p, ids) for ids in trial_prompts(policy)]) for p in (policy, exact))
    return float((rounded - plain).abs().max() / plain.std().clamp_min(1e-6))


def trial_prompts(policy: Policy, longer: int = 6) -> list[list[int]]:
    """Return two prompts, one of 3 tokens and one of 6 or more."""
    rows = policy.model.get_input_embeddings().weight.shape[0]
    return [[(7 * i + 3) % rows for i in range(3)], [(5 * i + 2) % rows for i in range(longer)]]


def trial_difference(engine: Engine, policy: Policy, length: int = 0) -> float:
    """Return how far an engine's log-probabilities are from the plain forward pass, in units of the logits' spread.

    Two prompts of 3 and 6 tokens, two sampled rows each.
    length: tokens of a third text, one row drawn beside a short one.
    """
    new_tokens = min(_TRIAL_TOKENS, policy.max_context - 6)
    worst = _difference(engine, policy, trial_prompts(policy), 2, new_tokens)
    if length:
        worst = max(worst, _difference(engine, policy, trial_prompts(policy, length - new_tokens), 1, new_tokens))
    return worst


def _difference(
    engine: Engine, policy: Policy, prompts_ids: Sequence[Sequence[int]], rows: int, new_tokens: int
) -> float:
    prompts = [Prompt(tuple(ids), key=number) for number, ids in enumerate(prompts_ids, start=1)]
    groups = engine.generate(prompts, rows, Sampling(max_new_tokens=new_tokens))
    worst = 0.0
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            logits = plain_logits(policy, [*prompt.ids, *completion.ids], last=len(completion.ids) + 1)[:-1]
            ids = torch.tensor(completion.ids, device=logits.device)
            expected = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
            got = torch.tensor(completion.logprobs, device=logits.device)
            off = float((got - expected).abs().max() / logits.std().clamp_min(1e-6))
            worst = off if not off <= worst else worst
    return worst


def plain_logits(policy: Policy, ids: Sequence[int], *, last: int = 0) -> Tensor:
    """Return the logits behind every token of a sequence, float32[T, V]: one full forward pass, no cache.

    last: behind the last ones alone; where the model can, it makes no others.
    """
    model = policy.causal_lm
    few = {"logits_to_keep": last} if last and "logits_to_keep" in signature(model.forward).parameters else {}
    with resting(policy.model), torch.no_grad(), policy.autocast():
        row = torch.tensor([list(ids)], device=policy.device)
        logits: Tensor = model(input_ids=row, use_cache=False, **few).logits
    return logits[0, -last:].float()
