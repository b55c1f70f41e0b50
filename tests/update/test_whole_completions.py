"""Objectives that need whole completions, and an entropy bonus: through the real forward passes of an update."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.grpo import with_advantages
from mathgrpo.grpo.importance import Importance
from mathgrpo.types import RolloutGroup
from mathgrpo.update import build_reference
from mathgrpo.update import logprobs as logprobs_module
from mathgrpo.update.forward import ModuleForward
from mathgrpo.update.fused.fused_forward import FusedForward
from mathgrpo.update.layout_trial import unshared_reason
from mathgrpo.update.logprobs import token_logprobs
from update.grpo_cases import MAX_NEW_TOKENS, TinyPolicy, largest_difference, make_groups, update

SAME = 2e-5


def without_spread(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    return with_advantages([dataclasses.replace(group, rewards=(0.5,) * 4) for group in groups], "group")


@pytest.mark.parametrize("loss", ["gspo", "cispo"])
def test_micro_batches_chunks_and_layouts_do_not_change_the_gradient(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, reference = make_groups(), build_reference(TinyPolicy(tiny_model(seed=9)), 0.2)
    settings: dict[str, Any] = {"sequence_ratio": 1.0, "entropy_coef": 0.1}
    common: dict[str, Any] = {
        "loss": loss, "loss_settings": settings, "beta": 0.2, "reference": reference, "lr": 0.05,
        "updates_per_rollout": 2,
    }  # fmt: skip
    stats, whole = update(tiny_model(), groups, **common)
    assert stats.micro_batches == 1
    for changed in ({"token_budget": 12}, {"shared_prompt": False}, {"fused_forward": "off"}):
        _, steps = update(tiny_model(), groups, **common, **changed)
        assert all(largest_difference(one, other) < SAME for one, other in zip(steps, whole, strict=True))
    monkeypatch.setattr(logprobs_module, "CHUNK_ELEMENTS", {"cpu": 1})
    monkeypatch.setattr(logprobs_module, "MIN_CHUNK", 5)
    cut, steps = update(tiny_model(), groups, **common)
    assert all(largest_difference(one, other) < SAME for one, other in zip(steps, whole, strict=True))
    assert cut.metrics == pytest.approx(stats.metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("fused_forward", ["on", "off"])
@pytest.mark.parametrize("importance", [None, Importance()])
def test_whole_completions_take_no_pass_of_the_transformer_more(
    fused_forward: str, importance: Importance | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, passes = FusedForward if fused_forward == "on" else ModuleForward, []
    hidden = kind.hidden

    def counted(self: Any, batch: Any) -> torch.Tensor:
        passes.append(batch.num_unique)
        return hidden(self, batch)

    model = tiny_model()
    assert unshared_reason(model) == "", "which looks at two small groups"
    monkeypatch.setattr(kind, "hidden", counted)
    stats, steps = update(
        model, make_groups(), loss="gspo", updates_per_rollout=2, token_budget=24, fused_forward=fused_forward,
        importance_weights=importance,
    )  # fmt: skip
    assert len(steps) == 2 and stats.micro_batches > 1 and len(passes) == 2 * stats.micro_batches


def test_an_entropy_bonus_learns_where_no_advantage_is() -> None:
    """Every advantage 0: without the bonus nothing is computed, with it the weights move, and entropy rises."""
    groups = without_spread(make_groups())
    model, before = tiny_model(), tiny_model().state_dict()
    stats, _ = update(model, groups, lr=0.1, loss="cispo")
    assert stats.skipped_groups == 3 and all((model.state_dict()[name] == before[name]).all() for name in before)
    history = []
    for _ in range(3):
        stats, _ = update(model, groups, lr=0.5, loss_settings={"entropy_coef": 1.0})
        history.append(stats.metrics["entropy"])
    assert stats.skipped_groups == 0 and stats.metrics["weights_moved"] > 0.5
    assert history[0] < history[1] < history[2]
    assert stats.metrics["loss"] == pytest.approx(-history[2], rel=1e-5)


def test_the_gradient_of_the_bonus_is_that_of_the_mean_entropy_written_out() -> None:
    """loss = -entropy_coef * mean over completion tokens of -sum_v p_v log p_v, by autograd on plain forward passes."""
    groups, model, total = without_spread(make_groups()), tiny_model(), torch.zeros(())
    _, (ours,) = update(tiny_model(), groups, loss_settings={"entropy_coef": 0.3}, loss="dr_grpo", temperature=0.7)
    count = 0
    for group in groups:
        for completion in group.completions:
            logits = model(torch.tensor([[*group.prompt.ids, *completion.ids]])).logits[
                0, len(group.prompt.ids) - 1 : -1
            ]
            logprobs = (logits / 0.7).log_softmax(-1)
            total, count = total - 0.3 * -(logprobs.exp() * logprobs).sum(), count + len(completion.ids)
    (total / count).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert largest_difference(ours, expected) < SAME


def test_the_entropy_s_gradient_at_certain_tokens_is_finite() -> None:
    """A probability that is 0 in float32 has log p = -inf, but p log p is 0."""
    logits = torch.tensor([[200.0, 0.0, -200.0], [1.0, 2.0, 3.0]], requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 2]), 1.0, entropy_gradient=True)
    (logprobs.sum() + entropy.sum()).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and entropy[0] == 0.0
    plain = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    probs = plain.softmax(-1)
    (probs.log()[0, 2] - (probs * probs.log()).sum()).backward()
    torch.testing.assert_close(logits.grad[1:], plain.grad)


def test_masked_completions_have_no_bonus() -> None:
    """The mean is over all tokens that are not masked."""
    groups = without_spread(make_groups())
    both, (kept,) = update(tiny_model(), groups, loss_settings={"entropy_coef": 1.0}, mask_truncated=True)
    assert both.metrics["loss"] == pytest.approx(-both.metrics["entropy"], rel=1e-5)
    tokens = sum(len(c.ids) for group in groups for c in group.completions if c.finish_reason == "eos")
    assert tokens < both.completion_tokens and MAX_NEW_TOKENS in {len(c.ids) for c in groups[0].completions}
    _, (everything,) = update(tiny_model(), groups, loss_settings={"entropy_coef": 1.0})
    assert largest_difference(kept, everything) > 1e-3
