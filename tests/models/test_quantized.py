"""4-bit models on a CPU: the gradient after a rollout is that of the same model with its weights written out."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fakes import tiny_model

bitsandbytes = pytest.importorskip("bitsandbytes")

from mathgrpo.models.quantized import is_quantized, linear4bit_layers, prepare_quantized  # noqa: E402

IDS = torch.tensor([[7, 19, 30, 44, 8, 61, 12, 9]])


@pytest.fixture
def quantized(tmp_path: Path) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_model(hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, device_map="cpu", dtype=torch.float32
    )


def with_adapter(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return adapted


def written_out(model: Any) -> Any:
    """Return a float32 copy of a 4-bit model, with plain linear layers of the same values."""
    plain = tiny_model(hidden_size=64, intermediate_size=128, head_dim=16)
    values = {name: p.detach().float() for name, p in model.named_parameters() if p.dtype != torch.uint8}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            values[f"{name}.weight"] = weight.float()
    plain.load_state_dict(values, strict=False)
    return plain


def gradient(model: Any) -> dict[str, torch.Tensor]:
    model.eval()
    with torch.no_grad():
        model(IDS)  # what a rollout does: a forward pass in eval mode without gradient
    model.zero_grad()
    logits = model(IDS).logits
    torch.log_softmax(logits, -1)[0, :-1].gather(1, IDS[0, 1:, None]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys() and first
    scale = max(float(value.abs().max()) for value in second.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first) / scale


def repacks_here() -> bool:
    from bitsandbytes.nn import modules

    return bool(modules.has_avx512bf16())


def test_gradients_after_a_rollout_equal_those_of_the_written_out_model(quantized: Any) -> None:
    expected = gradient(with_adapter(written_out(quantized)))
    prepare_quantized(quantized, torch.float32)
    assert is_quantized(quantized) and len(linear4bit_layers(quantized)) == 14
    assert largest_difference(gradient(with_adapter(quantized)), expected) < 1e-4


def test_a_model_that_was_used_before_is_brought_back(quantized: Any) -> None:
    expected = gradient(with_adapter(written_out(quantized)))
    with torch.no_grad():
        quantized.eval()(IDS)
    prepare_quantized(quantized, torch.float32)
    # Unpacking rounds the blocks' scales to bfloat16: the weights are another, equally good, quantisation.
    assert largest_difference(gradient(with_adapter(quantized)), expected) < 0.05


@pytest.mark.skipif(not repacks_here(), reason="this processor has no AVX512-BF16: nothing is repacked here")
def test_without_it_the_gradients_are_wrong(quantized: Any) -> None:
    """Should this fail one day, bitsandbytes has repaired it and prepare_quantized can go."""
    expected = gradient(with_adapter(written_out(quantized)))
    try:
        wrong = largest_difference(gradient(with_adapter(copy.deepcopy(quantized))), expected)
    except (RuntimeError, AttributeError):
        return
    assert wrong > 0.05
