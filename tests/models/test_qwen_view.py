"""The view of the fast family: what it serves is computed as the model computes it, and read once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import randomised, tiny_model, tiny_tokenizer
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo import with_advantages
from mathgrpo.models import Policy, policy_from, qwen_view
from mathgrpo.models.known_modules import why_not_served
from mathgrpo.models.qwen_view import (
    DOWN,
    GATE_UP,
    OUTPUT,
    QKV,
    QwenView,
    ViewLayer,
    effective_weight,
    whole_weights,
)
from mathgrpo.rollout.choose_engine import build_engine
from mathgrpo.rollout.engine import NativeEngine
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.rollout.trial import trial_difference
from mathgrpo.types import Problem, Prompt, RolloutGroup, Sampling
from mathgrpo.update import policy_update

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
FEATURES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("qwen2", {"rope_parameters": YARN}),
    ("qwen3", {"attention_bias": True, "tie_word_embeddings": False}),
    ("qwen3", {"head_dim": 16, "num_key_value_heads": 1}),
    ("llama", {"num_key_value_heads": 4}),
]


@pytest.mark.parametrize(("architecture", "overrides"), FEATURES)
def test_features_are_served_exactly(architecture: str, overrides: dict[str, Any]) -> None:
    model = randomised(tiny_model(architecture, **overrides))
    policy = policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")
    assert why_not_served(model) == ""
    assert trial_difference(NativeEngine(policy, fused_decoder(policy)), policy) < 1e-4


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_bfloat16_rounds_where_autocast_rounds(architecture: str) -> None:
    """fp32 masters under bf16 compute: as close to the model under autocast as bf16 (8 bits) allows."""
    model = randomised(tiny_model(architecture))
    policy = policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.bfloat16, name="tiny")
    rounding = trial_difference(NativeEngine(policy, fused_decoder(policy)), policy)
    assert rounding < 0.05
    full = replace(policy, compute_dtype=torch.float32)
    assert trial_difference(NativeEngine(full, fused_decoder(full)), full) < 1e-4


@pytest.mark.parametrize(
    ("architecture", "overrides", "reason"),
    [
        ("gpt2", {}, "GPT2LMHeadModel"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "sliding-window"),
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
    ],
)
def test_what_is_not_served_is_named(architecture: str, overrides: dict[str, Any], reason: str) -> None:
    assert reason in why_not_served(tiny_model(architecture, **overrides))


def test_a_quantised_layer_is_not_served() -> None:
    class Linear4bit(torch.nn.Linear):
        """Stands for a layer whose weight is not the matrix it multiplies with."""

    model = tiny_model("qwen2")
    model.model.layers[1].mlp.up_proj = Linear4bit(32, 64, bias=False)
    assert "up_proj is a Linear4bit" in why_not_served(model)


def test_merged_weights_leave_the_model_alone() -> None:
    from mathgrpo.config.recipe import LoraSection
    from mathgrpo.models.lora import attach_adapter

    plain = tiny_model("qwen2")
    before = plain.model.layers[0].self_attn.q_proj.weight.clone()
    adapted = attach_adapter(plain, LoraSection(r=2, alpha=4, target_modules=("q_proj",)))
    module = adapted.get_base_model().model.layers[0].self_attn.q_proj
    with torch.no_grad():
        module.lora_B["default"].weight.fill_(0.5)
        # alpha / r = 2; B is all 0.5: every row of B A is 0.5 * (sum of A's rows)
        expected = before + 2 * 0.5 * module.lora_A["default"].weight.sum(0)
        torch.testing.assert_close(effective_weight(module), expected)
        fused = QwenView(adapted.get_base_model(), torch.float32, 8).layers[0].qkv[0]
    torch.testing.assert_close(fused[:32], expected)
    assert torch.equal(module.base_layer.weight, before)
    with adapted.disable_adapter():
        assert torch.equal(effective_weight(module), before)


def test_a_view_follows_the_weights_at_its_addresses() -> None:
    model = randomised(tiny_model("qwen3", attention_bias=True))
    view = QwenView(model, torch.float32, 8)
    places = [tensor.data_ptr() for layer in view.layers for tensor in (layer.qkv[0], layer.down[0], layer.input_norm)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert not view.refresh(8) and view.refresh(9)
    fresh = QwenView(model, torch.float32, 16)
    assert torch.equal(view.cos, fresh.cos) and torch.equal(view.norm, fresh.norm)
    for kept, new in zip(view.layers, fresh.layers, strict=True):
        assert_same_layer(kept, new)
    assert places == [t.data_ptr() for layer in view.layers for t in (layer.qkv[0], layer.down[0], layer.input_norm)]


def assert_same_layer(one: ViewLayer, other: ViewLayer) -> None:
    for name in ("qkv", "output", "gate_up", "down"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            assert (a is None and b is None) or torch.equal(a, b), name
    for name in ("input_norm", "mlp_norm", "head_norm"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None and b is None) or torch.equal(a, b), name


SAMPLING = Sampling(max_new_tokens=6, seed=1)
PROMPTS = [Prompt(ids=(7, 8, 9), key=1), Prompt(ids=(20, 21, 22, 23), key=2)]


def policy_of(architecture: str = "qwen2") -> Policy:
    model = randomised(tiny_model(architecture))
    return policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")


def rollout(policy: Policy, engine: Any) -> list[RolloutGroup]:
    groups = []
    for prompt, completions in zip(PROMPTS, engine.generate(PROMPTS, 3, SAMPLING), strict=True):
        texts = ("",) * len(completions)
        groups.append(RolloutGroup(Problem("q", "1"), prompt, tuple(completions), texts, rewards=(1.0, 0.0, 0.0)))
    return with_advantages(groups, "group")


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("compiled", [True, False])
def test_no_matrix_is_folded_twice_in_an_update(compiled: bool, updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole steps: every matrix is read once for a rollout, once for an optimizer step, and never besides."""
    policy = policy_of()
    engine = build_engine(policy, compiled=compiled)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
    names = {id(module): name for name, module in policy.model.named_modules()}
    reads: Counter[str] = Counter()
    read = qwen_view.effective_weight
    monkeypatch.setattr(qwen_view, "effective_weight", lambda m: (reads.update([names[id(m)]]), read(m))[1])
    matrices = [f"model.layers.{i}.{part}" for i in range(2) for part in (*QKV, *OUTPUT, *GATE_UP, *DOWN)]
    section = GrpoSection(updates_per_rollout=updates)
    for _ in range(2):
        groups = rollout(policy, engine)
        assert [reads[name] for name in [*matrices, "lm_head"]] == [1] * 15
        reads.clear()
        policy_update(policy, optimizer, groups, section, temperature=1.0, max_new_tokens=6, max_grad_norm=1.0)
        assert [reads[name] for name in [*matrices, "lm_head"]] == [updates] * 15
        reads.clear()


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("folded", [True, False])
def test_gathered_shards_give_the_same_view_at_the_same_addresses(architecture: str, folded: bool) -> None:
    """One parameter at a time, put together from what several processes would hold."""
    model = randomised(tiny_model(architecture))
    whole = whole_weights(model)

    def gathered(name: str) -> Tensor | None:
        values = whole(name)
        return None if values is None else torch.cat([shard.clone() for shard in values.chunk(2)])

    views = [QwenView(model, torch.bfloat16, 30, folded=folded, source=source) for source in (whole, gathered)]
    for view in views:
        assert not view.refresh(30), "nothing moves when nothing grows"
        assert view.refresh(3000), "the rotary tables did"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert not any(view.refresh(3000) for view in views)
    for ours, theirs in zip(*(view.layers for view in views), strict=True):
        assert_same_layer(ours, theirs)
    assert torch.equal(views[0].head[0], views[1].head[0]) and torch.equal(views[0].norm, views[1].norm)


def test_what_needs_no_folding_is_the_models_own_memory() -> None:
    model = randomised(tiny_model("qwen2"))
    view, attention = QwenView(model, torch.float32, folded=True), model.model.layers[0].self_attn
    layer = view.layers[0]
    assert layer.output[0].data_ptr() == attention.o_proj.weight.data_ptr()
    assert view.head[0].data_ptr() == model.lm_head.weight.data_ptr()
    norm = model.model.layers[0].input_layernorm.weight
    expected = torch.cat([attention.q_proj.weight * attention.scaling, attention.k_proj.weight]) * norm
    assert torch.equal(layer.qkv[0][: len(expected)], expected)
    bias = layer.qkv[1]
    assert bias is not None and torch.equal(bias[:32], attention.q_proj.bias * attention.scaling)
