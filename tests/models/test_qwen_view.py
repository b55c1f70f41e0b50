"""The view of the fast family: what it serves is computed as the model computes it, and read once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fakes import randomised, tiny_model, tiny_tokenizer
from mathgrpo.models import policy_from
from mathgrpo.models.qwen_view import QwenView, ViewLayer, effective_weight, why_not_served
from mathgrpo.rollout.decoder_trial import trial_difference
from mathgrpo.rollout.torch_ops.torch_decoder import FusedDecoder

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
    assert trial_difference(FusedDecoder(policy), policy) < 1e-4


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_bfloat16_rounds_where_autocast_rounds(architecture: str) -> None:
    """fp32 masters under bf16 compute: as close to the model under autocast as bf16 (8 bits) allows."""
    model = randomised(tiny_model(architecture))
    policy = policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.bfloat16, name="tiny")
    rounding = trial_difference(FusedDecoder(policy), policy)
    assert rounding < 0.03
    full = replace(policy, compute_dtype=torch.float32)
    assert trial_difference(FusedDecoder(full), full) < 1e-4


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


def test_a_fixed_view_follows_the_weights_at_its_addresses() -> None:
    model = randomised(tiny_model("qwen3", attention_bias=True))
    view = QwenView(model, torch.float32, 8, fixed=True)
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


@pytest.mark.parametrize("fixed", [False, True])
def test_a_sharded_model_is_read_one_parameter_at_a_time(fixed: bool) -> None:
    """The model holds the first half of every parameter's memory; the whole exists only while it is read."""
    whole = randomised(tiny_model("qwen3", attention_bias=True))
    full = {name: parameter.detach().clone() for name, parameter in whole.named_parameters()}
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    expected = QwenView(whole, torch.float32, 8)
    expected_layers = [replace(layer, qkv=(layer.qkv[0].clone(), layer.qkv[1])) for layer in expected.layers]
    gathered: list[str] = []

    def gather(parameter: torch.Tensor) -> torch.Tensor:
        gathered.append(names[id(parameter)])
        return full[gathered[-1]]

    view = QwenView(whole, torch.float32, 8, fixed=fixed, gather=gather)
    for kept, new in zip(view.layers, expected_layers, strict=True):
        assert_same_layer(kept, new)
    matrices = [name for name in gathered if name.endswith("_proj.weight")]
    assert len(matrices) == len(set(matrices)) == 7 * len(view.layers)


def assert_same_layer(one: ViewLayer, other: ViewLayer) -> None:
    for name in ("qkv", "output", "gate_up", "down"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            assert (a is None and b is None) or torch.equal(a, b), name
    for name in ("input_norm", "mlp_norm", "head_norm"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None and b is None) or torch.equal(a, b), name
