from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import CHARS, SPECIAL, tiny_model
from mathgrpo.update.layout_trial import unshared_reason
from update.grpo_cases import largest_difference, make_groups, update


def small(config_class: Any, **overrides: Any) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(CHARS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2,
        "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(config_class(**(shape | overrides))).float().eval()


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "gpt2"])
def test_usual_architectures_share_prompts(architecture: str) -> None:
    assert unshared_reason(tiny_model(architecture)) == ""


def test_a_soft_cap_falls_back_with_the_same_gradient() -> None:
    from transformers import Gemma2Config

    softcap = small(Gemma2Config, query_pre_attn_scalar=8)
    assert unshared_reason(softcap) != ""
    stats, (gradient,) = update(softcap, make_groups())
    assert stats.layout == "plain" and "once per completion" in stats.notes[0]
    _, (plain,) = update(softcap, make_groups(), shared_prompt=False)
    assert largest_difference(gradient, plain) == 0.0


def test_a_model_without_ordinary_attention_falls_back() -> None:
    from transformers import AutoModelForCausalLM, BloomConfig

    bloom = BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=4, eos_token_id=1, pad_token_id=0)
    assert unshared_reason(AutoModelForCausalLM.from_config(bloom).eval()) != ""
