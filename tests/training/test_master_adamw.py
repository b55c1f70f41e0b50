"""A compute copy changes no number: gradients, steps, saved weights and resumed runs are those of autocast."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection, OptimizerSection
from mathgrpo.models import Policy, policy_from
from mathgrpo.optim.master_adamw import MasterAdamW, full_precision, make_compute_copies
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.runs.checkpoint import TrainingState, load_optimizer, save_checkpoint
from mathgrpo.update import UpdateStats, policy_update
from update.grpo_cases import MAX_NEW_TOKENS, lora_model, make_groups

RATE = 3e-3


def policy_of(model: Any) -> Policy:
    return policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.bfloat16, name="tiny")


def built(policy: Policy, compute_copy: Literal["on", "off"]) -> torch.optim.AdamW:
    section = OptimizerSection(learning_rate=RATE, weight_decay=0.1)
    machinery = Machinery(compute_copy=compute_copy)
    return build_optimizer(policy.model, section, policy.compute_dtype, machinery=machinery)


def one_update(policy: Policy, optimizer: torch.optim.Optimizer, seed: int) -> UpdateStats:
    # The modules' own forward pass: it is what a compute copy is for.
    machinery = Machinery(token_budget=40, fused_forward="off")
    return policy_update(
        policy, optimizer, make_groups(seed=seed), GrpoSection(), temperature=1.0, max_new_tokens=MAX_NEW_TOKENS,
        max_grad_norm=0.5, machinery=machinery,
    )  # fmt: skip


def full_weights(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    with full_precision(optimizer):
        return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_updates_equal_autocasts_bit_for_bit(architecture: str) -> None:
    results = []
    choices: tuple[Literal["off", "on"], ...] = ("off", "on")
    for compute_copy in choices:
        policy = policy_of(tiny_model(architecture))
        optimizer = built(policy, compute_copy)
        assert isinstance(optimizer, MasterAdamW) == (compute_copy == "on")
        stats = [one_update(policy, optimizer, seed) for seed in range(3)]
        results.append((full_weights(policy, optimizer), [s.metrics for s in stats], stats[0].micro_batches))
    (plain, plain_metrics, count), (copied, copied_metrics, _) = results
    assert count > 1
    assert all(torch.equal(plain[name], copied[name]) for name in plain)
    assert plain_metrics == copied_metrics


def test_the_model_holds_copies_of_the_layers_matrices_alone_and_they_follow_the_masters() -> None:
    policy = policy_of(tiny_model())
    optimizer = built(policy, "on")
    one_update(policy, optimizer, 0)
    assert isinstance(optimizer, MasterAdamW) and len(optimizer.masters) == 2 * 7
    for copy, master in optimizer.masters.items():
        assert copy.dtype == torch.bfloat16 and master.dtype == torch.float32
        assert torch.equal(copy.data, master.data.to(torch.bfloat16)) and copy.grad is None is master.grad
    others = [p for p in policy.model.parameters() if p not in optimizer.masters]
    assert others and all(p.dtype == torch.float32 for p in others)
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in owned} == {id(p) for p in [*optimizer.masters.values(), *others]}


def test_a_gradient_that_a_pass_cut_short_left_behind_is_not_taken_for_the_next_ones() -> None:
    """Memory can run out while a copy's gradient is handed on; the step is then begun again."""
    policies = [policy_of(tiny_model()) for _ in range(2)]
    optimizers = [built(policy, "on") for policy in policies]
    for copy in optimizers[1].masters:  # type: ignore[attr-defined]
        copy.grad = torch.ones_like(copy)
    for policy, optimizer in zip(policies, optimizers, strict=True):
        one_update(policy, optimizer, 0)
    first, second = (full_weights(*pair) for pair in zip(policies, optimizers, strict=True))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_matrix_that_is_tied_to_one_outside_the_layers_stays_as_it_is() -> None:
    model = tiny_model(vocab_size=32)
    model.model.layers[0].self_attn.o_proj.weight = model.model.embed_tokens.weight
    masters = make_compute_copies(model, torch.bfloat16)
    assert len(masters) == 13 and model.model.embed_tokens.weight.dtype == torch.float32


def test_small_steps_are_kept_that_a_16_bit_weight_would_round_away() -> None:
    policy = policy_of(tiny_model())
    optimizer = built(policy, "on")
    before = {copy: copy.data.clone() for copy in optimizer.masters}  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["lr"] = 1e-7
    stats = one_update(policy, optimizer, 0)
    assert stats.metrics["weights_moved"] > 0.5
    moved = sum(int((copy.data != old).sum()) for copy, old in before.items())
    assert moved < 0.01 * sum(old.numel() for old in before.values())


def test_a_checkpoint_has_the_masters_and_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    policy = policy_of(tiny_model())
    optimizer = built(policy, "on")
    one_update(policy, optimizer, 0)
    addresses = [p.data_ptr() for p in policy.model.parameters()]
    saved = save_checkpoint(tmp_path, policy, optimizer, TrainingState(1, 40), keep=1)
    assert [p.data_ptr() for p in policy.model.parameters()] == addresses
    again = policy_of(AutoModelForCausalLM.from_pretrained(saved, dtype="auto").eval())
    assert all(p.dtype == torch.float32 for p in again.model.parameters())
    weights = full_weights(policy, optimizer)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())
    resumed = built(again, "on")
    load_optimizer(saved, again, resumed)
    for one, other in ((policy, optimizer), (again, resumed)):
        one_update(one, other, 1)
    weights = full_weights(policy, optimizer)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in full_weights(again, resumed).items())


def test_copies_are_made_where_there_is_something_to_copy() -> None:
    policy, on = policy_of(tiny_model()), Machinery(compute_copy="on")
    for model, dtype in ((policy.model, torch.float32), (lora_model(), torch.bfloat16)):
        assert type(build_optimizer(model, OptimizerSection(), dtype, machinery=on)) is torch.optim.AdamW
    assert type(build_optimizer(policy.model, OptimizerSection(), torch.bfloat16)) is torch.optim.AdamW
