from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.errors import UserError
from mathgrpo.types import RolloutGroup
from mathgrpo.update import NonFiniteError, build_reference, policy_update
from update.grpo_cases import (
    MAX_NEW_TOKENS,
    TinyPolicy,
    largest_difference,
    lora_model,
    make_groups,
    update,
)

ARCHITECTURES = ["qwen2", "qwen3", "llama", "gpt2", "lora", "lora_head"]
SAME = 2e-5


def make_model(architecture: str) -> Any:
    if architecture.startswith("lora"):
        return lora_model(lm_head=architecture == "lora_head")
    return tiny_model(architecture)


@pytest.mark.parametrize(
    ("architecture", "beta"), [*((name, 0.0) for name in ARCHITECTURES), ("qwen2", 0.2), ("lora", 0.2)]
)
def test_gradient_is_the_same_however_the_work_is_laid_out(architecture: str, beta: float) -> None:
    """Budget, order of groups, sharing of prompts: none changes the gradient."""
    groups = make_groups(same_rewards=(1,))

    def gradient(groups: list[RolloutGroup], **section: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        model = make_model(architecture)
        reference = build_reference(TinyPolicy(model), beta)
        stats, (result,) = update(model, groups, beta=beta, reference=reference, **section)
        return stats, result

    plain_stats, plain = gradient(groups, shared_prompt=False, skip_zero_advantage=False)
    assert plain_stats.layout == "plain" and plain_stats.notes
    shared_stats, shared = gradient(groups)
    assert shared_stats.layout == "shared" and not shared_stats.notes
    assert shared_stats.tokens < plain_stats.tokens
    assert shared_stats.metrics["loss"] == pytest.approx(plain_stats.metrics["loss"], abs=1e-6)
    assert largest_difference(shared, plain) < SAME
    for changed in ({"token_budget": 1}, {"token_budget": 30}, {"token_budget": 1, "shared_prompt": False}):
        stats, other = gradient(groups, **changed)  # type: ignore[arg-type]
        assert stats.micro_batches > shared_stats.micro_batches
        assert largest_difference(other, plain) < SAME
    assert largest_difference(gradient(groups[::-1])[1], plain) < SAME


def test_at_ratio_one_the_gradient_is_reinforce() -> None:
    groups = make_groups()
    _, (ours,) = update(tiny_model(), groups, loss="dr_grpo")
    model = tiny_model()
    total = torch.zeros(())
    for group in groups:
        for advantage, completion in zip(group.advantages, group.completions, strict=True):
            ids = torch.tensor([[*group.prompt.ids, *completion.ids]])
            logprobs = model(ids).logits[0, len(group.prompt.ids) - 1 : -1].log_softmax(-1)
            picked = logprobs.gather(-1, torch.tensor(completion.ids)[:, None])
            total = total - advantage * picked.sum() / (12 * MAX_NEW_TOKENS)
    total.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert largest_difference(ours, expected) < SAME
    flipped = [dataclasses.replace(group, advantages=tuple(-a for a in group.advantages)) for group in groups]
    assert largest_difference(update(tiny_model(), flipped, loss="dr_grpo")[1][0], expected) > 1.0


def test_skipping_zero_advantages_is_exact_and_counted() -> None:
    groups = make_groups(num_groups=4, same_rewards=(1, 3))
    for loss in ("grpo", "dr_grpo", "dapo", "bnpo"):
        full_stats, (full,) = update(tiny_model(), groups, loss=loss, skip_zero_advantage=False)
        skip_stats, (skip,) = update(tiny_model(), groups, loss=loss)
        assert largest_difference(skip, full) < SAME
        assert (full_stats.skipped_groups, skip_stats.skipped_groups) == (0, 2)
        assert skip_stats.tokens < full_stats.tokens
    # The denominator: dropping the groups from the step altogether is another gradient (for dapo).
    assert largest_difference(update(tiny_model(), [groups[0], groups[2]])[1][0], full) > 0.1


def test_a_step_without_any_spread_still_moves_adam_as_the_plain_computation_does() -> None:
    weights = []
    for skip in (True, False):
        model = tiny_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for groups in (make_groups(), make_groups(same_rewards=(0, 1, 2))):
            stats = policy_update(
                TinyPolicy(model), optimizer, groups, GrpoSection(), temperature=1.0,
                max_new_tokens=MAX_NEW_TOKENS, max_grad_norm=1.0, machinery=Machinery(skip_zero_advantage=skip),
            )  # fmt: skip
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert stats.metrics["grad_norm"] == 0.0 and ("entropy" in stats.metrics) is not skip
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-5)


def test_prompt_and_padding_tokens_get_no_loss() -> None:
    """A prompt token that occurs nowhere else has no output gradient (untied head): it is never a target."""
    groups = make_groups()
    model = tiny_model(tie_word_embeddings=False)
    _, (gradient,) = update(model, groups, loss="dapo", beta=0.0)
    # Summed over hidden states, d loss / d head row v = sum_t w_t A_t (p_v - 1[target = v]) h_t. With the targets'
    # part taken out it would be smooth; instead check directly by moving one never-sampled token into the prompt.
    unused = 95
    assert all(unused not in (*g.prompt.ids, *[i for c in g.completions for i in c.ids]) for g in groups)
    changed = [dataclasses.replace(groups[0], prompt=dataclasses.replace(groups[0].prompt, ids=(unused, 7, 8)))]
    embedding = "model.embed_tokens.weight"
    _, (after,) = update(tiny_model(tie_word_embeddings=False), changed + groups[1:])
    assert gradient[embedding][unused].abs().max() == 0.0 and after[embedding][unused].abs().max() > 0.0
    # Token 0 pads inputs and targets; it occurs in no rollout, so its embedding must stay without a gradient.
    assert gradient[embedding][0].abs().max() == 0.0


def test_several_updates_clip_and_keep_the_first_pass_as_old(monkeypatch: pytest.MonkeyPatch) -> None:
    stats, gradients = update(tiny_model(), make_groups(), lr=0.05, updates_per_rollout=3)
    assert len(gradients) == 3
    assert stats.metrics["clip_ratio/low"] > 0 and stats.metrics["clip_ratio/high"] > 0
    one, _ = update(tiny_model(), make_groups(), lr=0.05)
    assert one.metrics["clip_ratio/low"] == one.metrics["clip_ratio/high"] == 0.0
    # The sampling difference belongs to the first pass only, before the policy moved.
    name = "sampling/logprob_difference/mean"
    assert stats.metrics[name] == pytest.approx(one.metrics[name], rel=1e-5)


def test_sampling_difference_and_moved_weights_are_what_they_say() -> None:
    groups, model = make_groups(), tiny_model()
    exact = []
    for group in groups:
        completions = []
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt.ids, *completion.ids]])
            with torch.no_grad():
                logprobs = model(ids).logits[0, len(group.prompt.ids) - 1 : -1].log_softmax(-1)
            values = logprobs.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
            completions.append(dataclasses.replace(completion, logprobs=tuple((values - 0.25).tolist())))
        exact.append(dataclasses.replace(group, completions=tuple(completions)))
    stats, _ = update(model, exact, lr=0.0)
    assert stats.metrics["sampling/logprob_difference/mean"] == pytest.approx(0.25, abs=1e-4)
    assert stats.metrics["sampling/logprob_difference/max"] == pytest.approx(0.25, abs=1e-4)
    assert stats.metrics["weights_moved"] == 0.0
    assert stats.completion_tokens == sum(len(c.ids) for g in groups for c in g.completions)
    assert update(model, exact, lr=0.1)[0].metrics["weights_moved"] > 0.5


def test_gradient_is_clipped_to_the_norm() -> None:
    stats, (gradient,) = update(tiny_model(), make_groups(), max_grad_norm=0.01)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradient.values()))
    assert norm == pytest.approx(0.01, rel=1e-3) and stats.metrics["grad_norm"] > 0.1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(h)"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])  # fmt: skip
def test_out_of_memory_halves_the_budget_and_gives_the_same_gradient(error: Exception) -> None:
    groups = make_groups()
    _, (expected,) = update(
        tiny_model(), groups, beta=0.2, reference=build_reference(TinyPolicy(tiny_model(seed=1)), 0.2)
    )
    model = tiny_model()
    calls: list[int] = []

    def fail_in_the_second_micro_batch(module: Any, grad_input: Any, grad_output: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise error

    model.model.layers[0].mlp.register_full_backward_hook(fail_in_the_second_micro_batch)
    reference = build_reference(TinyPolicy(tiny_model(seed=1)), 0.2)
    stats, (gradient,) = update(model, groups, beta=0.2, reference=reference, token_budget=60)
    assert 20 < stats.token_budget <= 30 and stats.micro_batches > 2
    assert largest_difference(gradient, expected) < SAME


def test_other_errors_are_not_taken_for_a_lack_of_memory_and_a_hopeless_one_is_said() -> None:
    def failing(error: Exception) -> Any:
        model = tiny_model()
        update(model, make_groups())

        def fail(*_: Any) -> None:
            raise error

        model.model.layers[0].mlp.register_forward_hook(fail)
        return model

    with pytest.raises(RuntimeError, match="shapes"):
        update(failing(RuntimeError("shapes do not match")), make_groups())
    with pytest.raises(UserError, match=r"^\d+ tokens a micro-batch: out of memory with one completion"):
        update(failing(torch.OutOfMemoryError("CUDA out of memory")), make_groups(num_groups=1, group_size=2))


def test_non_finite_loss_or_gradient_stops_before_the_weights_change() -> None:
    bad_advantage = make_groups()
    bad_advantage[0] = dataclasses.replace(bad_advantage[0], advantages=(math.inf, 1.0, -1.0, 0.5))
    model = tiny_model()
    update(model, make_groups())
    start = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match="grad_norm"):
        update(model, bad_advantage, lr=0.1)

    def overflow(module: Any, grad_input: Any, grad_output: Any) -> tuple[torch.Tensor, ...]:
        return tuple(g * math.inf for g in grad_input)

    hook = model.model.layers[0].mlp.register_full_backward_hook(overflow)
    with pytest.raises(NonFiniteError, match="optimizer step 1"):
        update(model, make_groups(), lr=0.1)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_left_over_from_elsewhere_is_not_added() -> None:
    model, groups = tiny_model(), make_groups()
    _, (expected,) = update(model, groups)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert largest_difference(update(model, groups)[1][0], expected) < SAME


def test_inputs_modes_and_settings_are_left_as_they_were() -> None:
    model, groups = tiny_model("gpt2"), make_groups()
    model.train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    # GPT-2 has dropout of 0.1: in training mode two updates would differ.
    first, second = (update(model, groups)[1][0] for _ in range(2))
    assert largest_difference(first, second) == 0.0
    assert groups == make_groups() and [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == tiny_model("gpt2").config._attn_implementation


def test_adapter_dropout_is_on_in_the_update_and_only_there() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    first, second = (update(model, make_groups())[1][0] for _ in range(2))
    assert largest_difference(first, second) > 1e-2
    assert not any(module.training for module in model.modules())


def test_reference_is_frozen_and_the_adapters_is_the_base_model() -> None:
    groups, beta = make_groups(), 0.5
    policy = TinyPolicy(tiny_model())
    assert build_reference(policy, 0.0) is None
    reference = build_reference(policy, beta)
    assert reference is not None and reference.model is not policy.model
    assert not any(p.requires_grad for p in reference.model.parameters())
    assert update(policy.model, groups, beta=beta, reference=reference)[0].metrics["kl"] == pytest.approx(0, abs=1e-6)
    update(policy.model, groups, lr=0.05, beta=beta, reference=reference)
    assert update(policy.model, groups, beta=beta, reference=reference)[0].metrics["kl"] > 1e-4

    adapted = lora_model()
    off = build_reference(TinyPolicy(adapted), beta)
    assert off is not None and off.model is adapted
    base = build_reference(TinyPolicy(tiny_model()), beta)
    by_adapter, by_base = (update(adapted, groups, beta=beta, reference=r) for r in (off, base))
    assert (
        by_adapter[0].metrics["kl"] == pytest.approx(by_base[0].metrics["kl"], rel=1e-4)
        and by_base[0].metrics["kl"] > 1e-3
    )
    assert largest_difference(by_adapter[1][0], by_base[1][0]) < 1e-4


def test_wrong_calls_are_said() -> None:
    with pytest.raises(UserError, match="no groups"):
        update(tiny_model(), [])
    with pytest.raises(UserError, match="no advantages"):
        update(tiny_model(), [dataclasses.replace(make_groups()[0], advantages=())])
    with pytest.raises(UserError, match=r"grpo.beta=0.1"):
        update(tiny_model(), make_groups(), beta=0.1)
