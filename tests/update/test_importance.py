"""Importance weights in the update: off by default, exact by hand, nothing where sampler and trainer agree."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.grpo.importance import Importance
from mathgrpo.types import RolloutGroup
from mathgrpo.update import build_reference
from update.grpo_cases import MAX_NEW_TOKENS, TinyPolicy, largest_difference, make_groups, update

CUT = Importance(high=3.0, mask=False, whole=False)
"""What a recipe with rollout.vllm.importance_cap=3 asks for."""


@torch.no_grad()
def with_sampler(model: Any, groups: list[RolloutGroup], shift: Any) -> list[RolloutGroup]:
    """Return the groups as if drawn by a sampler whose log-probability of a completion's token i is off by shift(i)."""
    changed = []
    for group in groups:
        completions = []
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt.ids, *completion.ids]])
            logprobs = model(ids).logits[0, len(group.prompt.ids) - 1 : -1].log_softmax(-1)
            own = logprobs.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0].tolist()
            values = tuple(value - shift(i) for i, value in enumerate(own))
            completions.append(dataclasses.replace(completion, logprobs=values))
        changed.append(dataclasses.replace(group, completions=tuple(completions)))
    return changed


def test_equal_log_probabilities_leave_the_gradient_as_it_was() -> None:
    groups = with_sampler(tiny_model(), make_groups(), lambda i: 0.0)
    _, (plain,) = update(tiny_model(), groups)
    stats, (weighted,) = update(tiny_model(), groups, importance_weights=CUT)
    assert largest_difference(plain, weighted) < 2e-6
    assert stats.metrics["importance/mean"] == pytest.approx(1.0, abs=1e-5)
    assert stats.metrics["importance/max"] == pytest.approx(1.0, abs=1e-5)
    assert stats.metrics["importance/capped"] == 0.0


def test_without_weights_a_sampler_s_numbers_change_nothing() -> None:
    shifted = with_sampler(tiny_model(), make_groups(), lambda i: 0.3 * i)
    agreeing = with_sampler(tiny_model(), make_groups(), lambda i: 0.0)
    stats, (ours,) = update(tiny_model(), shifted)
    _, (same,) = update(tiny_model(), agreeing)
    assert largest_difference(ours, same) == 0.0
    assert not any(name.startswith("importance") for name in stats.metrics)


@pytest.mark.parametrize("fused_forward", ["on", "off"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_weight_multiplies_the_policy_term_of_every_token(beta: float, fused_forward: str) -> None:
    """Against a loss written out with autograd: shifts of -0.5, 0 and 2 nats give weights e^-0.5, 1 and the cap 3."""
    shifts = (-0.5, 0.0, 2.0)
    groups = with_sampler(tiny_model(), make_groups(), lambda i: shifts[i % 3])
    policy_model, base = tiny_model(), tiny_model(seed=9)
    reference = build_reference(TinyPolicy(base), beta) if beta else None
    stats, (ours,) = update(
        policy_model, groups, beta=beta, reference=reference, loss="dr_grpo", importance_weights=CUT,
        fused_forward=fused_forward,
    )  # fmt: skip
    model, total, weights = tiny_model(), torch.zeros(()), []
    for group in groups:
        for advantage, completion in zip(group.advantages, group.completions, strict=True):
            ids, begin = torch.tensor([[*group.prompt.ids, *completion.ids]]), len(group.prompt.ids) - 1
            chosen = torch.tensor(completion.ids)[:, None]
            logprobs = model(ids).logits[0, begin:-1].log_softmax(-1).gather(-1, chosen)[:, 0]
            with torch.no_grad():
                ref = base(ids).logits[0, begin:-1].log_softmax(-1).gather(-1, chosen)[:, 0]
            ratio = torch.exp(logprobs - logprobs.detach())
            weight = torch.tensor([(math.exp(-0.5), 1.0, 3.0)[i % 3] for i in range(len(completion.ids))])
            kl = ratio * (torch.exp(ref - logprobs) - (ref - logprobs) - 1.0)
            total = total + (-weight * ratio * advantage + beta * kl).sum() / (12 * MAX_NEW_TOKENS)
            weights += weight.tolist() if advantage or beta else []
    total.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert largest_difference(ours, expected) < 2e-5
    assert stats.metrics["importance/mean"] == pytest.approx(sum(weights) / len(weights), rel=1e-4)
    assert stats.metrics["importance/max"] == pytest.approx(3.0)
    assert stats.metrics["importance/capped"] == pytest.approx(weights.count(3.0) / len(weights), rel=1e-5)
    _, (plain,) = update(tiny_model(), groups, beta=beta, reference=reference, loss="dr_grpo")
    assert largest_difference(plain, expected) > 1e-3  # the weights matter here


def test_the_weight_is_the_first_pass_s_in_every_update_on_the_same_rollouts() -> None:
    groups = with_sampler(tiny_model(), make_groups(), lambda i: 0.4)
    stats, _ = update(tiny_model(), groups, lr=0.05, updates_per_rollout=3, importance_weights=CUT)
    assert stats.metrics["importance/mean"] == pytest.approx(math.exp(0.4), rel=1e-4)
