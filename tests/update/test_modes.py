"""Recomputing layers in the backward pass: the same gradient from less memory, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.update.layer_modes import layers_of, recomputed_layers
from update.grpo_cases import largest_difference, lora_model, make_groups, update


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "gpt2", "lora"])
@pytest.mark.parametrize("shared_prompt", [True, False])
def test_recomputed_layers_give_the_same_gradient(architecture: str, shared_prompt: bool) -> None:
    model: Any = lora_model() if architecture == "lora" else tiny_model(architecture)
    groups = make_groups()
    _, (plain,) = update(model, groups, token_budget=40, shared_prompt=shared_prompt, fused_forward="off")
    passes: list[int] = []
    hook = layers_of(model)[0].register_forward_hook(lambda *_: passes.append(1))
    inner = next(layers_of(model)[0].children()).register_forward_hook(lambda *_: passes.append(2))
    with recomputed_layers(model):
        stats, (again,) = update(model, groups, token_budget=40, shared_prompt=shared_prompt, fused_forward="off")
    hook.remove()
    inner.remove()
    assert largest_difference(again, plain) < 1e-6
    # Every layer ran once as a module; what is in it ran once more in the backward pass.
    assert passes.count(2) == 2 * passes.count(1) >= 2 * stats.micro_batches
    assert not any("forward" in vars(layer) for layer in layers_of(model))


def test_a_forward_put_on_the_instance_by_others_is_put_back() -> None:
    model = tiny_model()
    layer = layers_of(model)[0]
    layer.forward = original = layer.forward
    with recomputed_layers(model):
        assert layer.forward is not original
    assert layer.forward is original


def test_only_the_inputs_of_layers_are_kept() -> None:
    def kept(active: bool) -> int:
        model, sizes = tiny_model(num_hidden_layers=6), dict[int, int]()

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with recomputed_layers(model, active), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.arange(6, 70)[None], use_cache=False).logits.sum()
        return sum(sizes.values())

    assert kept(True) < 0.5 * kept(False)
