"""Several optimizer steps on parts of one rollout, and importance weights of whole completions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo.importance import Importance
from mathgrpo.types import RolloutGroup
from mathgrpo.update import UpdateStats, build_reference, policy_update
from mathgrpo.update.pack import Piece
from update.grpo_cases import (
    MACHINERY,
    MAX_NEW_TOKENS,
    RecordingSGD,
    TinyPolicy,
    largest_difference,
    lora_model,
    make_groups,
)
from update.test_importance import with_sampler

SAME = 2e-5


def update(
    model: Any, groups: list[RolloutGroup], *, lr: float = 0.0, parts: Any = (), importance: Any = None,
    reference: Any = None, **section: Any,
) -> tuple[UpdateStats, list[dict[str, torch.Tensor]]]:  # fmt: skip
    optimizer = RecordingSGD(model, lr)
    machinery = Machinery(**{name: section.pop(name) for name in MACHINERY & section.keys()})
    stats = policy_update(
        TinyPolicy(model), optimizer, groups, GrpoSection(**section), temperature=1.0, max_new_tokens=MAX_NEW_TOKENS,
        max_grad_norm=1e9, reference=reference, parts=parts, importance=importance, machinery=machinery,
    )  # fmt: skip
    return stats, optimizer.gradients


def halves(groups: list[RolloutGroup]) -> list[list[Piece]]:
    """The even and the odd completions of every group."""
    return [[Piece(b, (first, first + 2)) for b in range(len(groups))] for first in (0, 1)]


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_without_a_step_in_between_the_parts_add_up_to_the_whole(beta: float) -> None:
    """At learning rate 0 the mean of the parts' gradients is the whole rollout's."""
    groups = make_groups()
    reference = build_reference(TinyPolicy(tiny_model(seed=9)), beta)
    _, (whole,) = update(tiny_model(), groups, beta=beta, reference=reference)
    stats, parts = update(
        tiny_model(), groups, parts=halves(groups), updates_per_rollout=2, beta=beta, reference=reference
    )
    assert len(parts) == 2 and largest_difference(parts[0], parts[1]) > 0.1
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in whole}
    assert largest_difference(mean, whole) < SAME
    assert stats.metrics["clip_ratio/low"] == stats.metrics["clip_ratio/high"] == 0.0


def test_the_second_part_s_ratios_are_to_the_policy_that_sampled() -> None:
    """Against a loss written out: the second half's old log-probabilities are those before the first step."""
    groups, rate = make_groups(), 0.5
    _, (first, second) = update(
        tiny_model(), groups, lr=rate, parts=halves(groups), updates_per_rollout=2, loss="dr_grpo",
        loss_settings={"epsilon_high": 9.0, "epsilon_low": 0.99},
    )  # fmt: skip
    model, old = tiny_model(), tiny_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= rate * first[name]
    total = torch.zeros(())
    for group in groups:
        for g in (1, 3):
            completion, advantage = group.completions[g], group.advantages[g]
            ids = torch.tensor([[*group.prompt.ids, *completion.ids]])
            rows, chosen = slice(len(group.prompt.ids) - 1, -1), torch.tensor(completion.ids)[:, None]
            new = model(ids).logits[0, rows].log_softmax(-1).gather(-1, chosen)[:, 0]
            with torch.no_grad():
                before = old(ids).logits[0, rows].log_softmax(-1).gather(-1, chosen)[:, 0]
            ratio = torch.exp(new - before)
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.01, 10.0) * advantage)
            total = total - surrogate.sum() / (6 * MAX_NEW_TOKENS)
    total.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert largest_difference(second, expected) < 5e-5
    model.zero_grad()
    _, (on_policy,) = update(model, groups, parts=halves(groups)[1:] * 2, loss="dr_grpo")
    assert largest_difference(second, on_policy) > 1e-3, "the ratios matter here"


def test_parts_come_again_in_turn() -> None:
    groups = make_groups()
    _, steps = update(tiny_model(), groups, parts=halves(groups), updates_per_rollout=5)
    assert len(steps) == 5
    assert largest_difference(steps[2], steps[0]) < SAME and largest_difference(steps[3], steps[1]) < SAME


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(
    "importance",
    [
        Importance(high=3.0),
        Importance(0.95, 3.0, mask=False),
        Importance(0.95, 1.5, whole=False),
        Importance(0.95, 1.5, mask=False, whole=False),
    ],
    ids=["mask", "truncate", "token mask", "token truncate"],
)
def test_the_weights_multiply_the_policy_term(beta: float, importance: Importance) -> None:
    """Against a loss written out. Shifts of -0.1 to 0.5 nats a token: some ratios are past the bounds."""
    groups = with_sampler(tiny_model(), make_groups(), lambda i: (-0.1, 0.2, 0.5)[i % 3])
    reference = build_reference(TinyPolicy(tiny_model(seed=9)), beta)
    stats, (ours,) = update(tiny_model(), groups, importance=importance, beta=beta, reference=reference, loss="grpo")
    model, base, total, weights = tiny_model(), tiny_model(seed=9), torch.zeros(()), []
    for group in groups:
        for advantage, completion in zip(group.advantages, group.completions, strict=True):
            ids, rows = torch.tensor([[*group.prompt.ids, *completion.ids]]), slice(len(group.prompt.ids) - 1, -1)
            chosen, length = torch.tensor(completion.ids)[:, None], len(completion.ids)
            new = model(ids).logits[0, rows].log_softmax(-1).gather(-1, chosen)[:, 0]
            with torch.no_grad():
                ref = base(ids).logits[0, rows].log_softmax(-1).gather(-1, chosen)[:, 0]
            shifts = torch.tensor([(-0.1, 0.2, 0.5)[i % 3] for i in range(length)])
            weight = importance.weights(torch.exp(shifts.sum().expand(length) if importance.whole else shifts))
            ratio = torch.exp(new - new.detach())
            kl = ratio * (torch.exp(ref - new) - (ref - new) - 1.0)
            total = total + (-weight * ratio * advantage + beta * kl).sum() / (length * 12)
            weights += weight.tolist()[: 1 if importance.whole else length] if advantage or beta else []
    total.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert largest_difference(ours, expected) < 5e-5
    assert len(set(weights)) > 1
    for name, value in (("mean", sum(weights) / len(weights)), ("min", min(weights)), ("max", max(weights))):
        assert stats.metrics[f"importance/{name}"] == pytest.approx(value, rel=1e-3, abs=1e-6)


def test_a_sampler_that_agrees_changes_nothing() -> None:
    groups = with_sampler(tiny_model(), make_groups(), lambda i: 0.0)
    _, (plain,) = update(tiny_model(), groups)
    _, (weighed,) = update(tiny_model(), groups, importance=Importance())
    assert largest_difference(weighed, plain) < SAME


def test_adapter_dropout_takes_no_part_in_the_old_log_probs() -> None:
    """With dropout in the update, the weights are those of the policy that sampled: 1 where it agrees."""
    model = lora_model()
    for name, module in list(model.named_modules()):
        if name.endswith(".lora_dropout"):
            module["default"] = torch.nn.Dropout(0.5)
    model.eval()
    groups = with_sampler(model, make_groups(), lambda i: 0.0)
    stats, _ = update(model, groups, importance=Importance())
    assert stats.metrics["importance/min"] == pytest.approx(1.0, abs=1e-4)
    assert stats.metrics["importance/max"] == pytest.approx(1.0, abs=1e-4)


def test_a_masked_completion_adds_nothing_but_counts_in_the_denominator() -> None:
    groups = make_groups(num_groups=1)
    far = [dataclasses.replace(c, logprobs=tuple(p - 50.0 for p in c.logprobs)) for c in groups[0].completions[:1]]
    first = dataclasses.replace(groups[0], completions=(*far, *groups[0].completions[1:]))
    agreeing = with_sampler(tiny_model(), groups, lambda i: 0.0)[0]
    mixed = dataclasses.replace(agreeing, completions=(first.completions[0], *agreeing.completions[1:]))
    _, (masked,) = update(tiny_model(), [mixed], importance=Importance(), skip_zero_advantage=False)
    zeroed = dataclasses.replace(agreeing, advantages=(0.0, *agreeing.advantages[1:]))
    _, (expected,) = update(tiny_model(), [zeroed], skip_zero_advantage=False)
    assert largest_difference(masked, expected) < SAME
