"""Whether a step's completions were drawn from the policy: what a plain forward pass says of the tokens in doubt.

The update compares the sampler's log-probabilities with those of its own first pass in every step. Only where these are
further apart than rounding explains is it asked here which of the two is wrong, or whether neither is: truncated
sampling and adapter dropout set them apart, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mathgrpo.distributed import World
from mathgrpo.models import Policy
from mathgrpo.rollout.sampling import truncate
from mathgrpo.rollout.trial import plain_logits
from mathgrpo.text import number
from mathgrpo.types import Sampling
from mathgrpo.update.first_pass import drops_out
from mathgrpo.update.step import Step

_ROWS = 8
"""Completions that are computed again, those that are furthest apart."""
_ROUNDINGS = 3.0


class SamplerError(ArithmeticError):
    """Completions were not drawn from the policy; found before the weights change."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Sums over tokens: |sampler - plain|, |first pass - plain|, |rounded - exact|, and how many tokens."""

    sampler: float = 0.0
    update: float = 0.0
    rounding: float = 0.0
    tokens: int = 0


def doubt(step: Step, policy: Policy, sampling: Sampling, allowed: float, world: World) -> str:
    """Return why the update's first pass is not the policy's, "" if it is; the step's log-probabilities are in doubt.

    allowed: mean difference that is explained, in nats a token; where rounding does more to this model, more is.
    Collective: all processes come here.
    Raises: SamplerError when the completions are not the policy's.
    """
    parts = world.gather(_found(step, policy, sampling))
    tokens = max(1, sum(part.tokens for part in parts))
    sampler, update, rounding = (
        sum(getattr(part, name) for part in parts) / tokens for name in ("sampler", "update", "rounding")
    )
    allowed = max(allowed, _ROUNDINGS * rounding)
    if not sampler <= allowed:
        raise SamplerError(
            f"the sampled tokens' log-probabilities are {number(sampler, 2)} nats a token from the policy's own, where "
            f"{number(allowed, 2)} is explained by rounding"
        )
    if update <= allowed or drops_out(policy.model):
        return ""
    return (
        f"its log-probabilities are {number(update, 2)} nats a token from a plain forward pass, where "
        f"{number(allowed, 2)} is explained by rounding"
    )


@torch.no_grad()
def _found(step: Step, policy: Policy, sampling: Sampling) -> _Found:
    """Return what a plain forward pass says of this process's completions that are furthest apart."""
    old_M, sampling_M = step.tokens.old_M.cpu(), step.tokens.sampling_M.cpu()
    rows = []
    for piece in step.pieces:
        prompt = step.groups[piece.group].prompt.ids
        for g in piece.completions:
            ids = step.groups[piece.group].completions[g].ids
            place = slice(step.tokens.offsets[piece.group][g], step.tokens.offsets[piece.group][g] + len(ids))
            gap = (old_M[place] - sampling_M[place]).abs().mean().nan_to_num(torch.inf)
            rows.append((float(gap), prompt, ids, place))
    found = _Found()
    for _, prompt, ids, place in sorted(rows, key=lambda row: -row[0])[:_ROWS]:
        full, drawn = _logprobs(policy, prompt, ids, sampling)
        rounding = 0.0
        if policy.compute_dtype != torch.float32 and _is_float32(policy):
            exact, _ = _logprobs(replace(policy, compute_dtype=torch.float32), prompt, ids, sampling)
            rounding = float((full - exact).abs().sum())
        found = _Found(
            found.sampler + float((drawn - sampling_M[place]).abs().sum()),
            found.update + float((full - old_M[place]).abs().sum()),
            found.rounding + rounding,
            found.tokens + len(ids),
        )
    return found


def _logprobs(
    policy: Policy, prompt: tuple[int, ...], ids: tuple[int, ...], sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Return the tokens' log-probabilities, all tokens allowed, and those they were drawn with.

    A token that truncation leaves out here was at its edge, where rounding decides, and counts as if all were allowed.
    """
    scores = plain_logits(policy, [*prompt, *ids], last=len(ids) + 1)[:-1] / (sampling.temperature or 1.0)
    taken = torch.tensor(ids, device=scores.device)[:, None]
    full = scores.log_softmax(-1).gather(1, taken)[:, 0].cpu()
    drawn = truncate(scores, sampling).log_softmax(-1).gather(1, taken)[:, 0].cpu() if sampling.temperature else full
    return full, torch.where(drawn.isfinite(), drawn, full)


def _is_float32(policy: Policy) -> bool:
    """Return whether the model can compute in float32: no weight is kept in 16 bits."""
    return all(weight.dtype == torch.float32 for weight in policy.model.parameters() if weight.is_floating_point())
