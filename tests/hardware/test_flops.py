"""Counting against PyTorch's own counter, and against sums done by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fakes import tiny_model
from mathgrpo.hardware.flops import (
    GroupLengths,
    ModelShape,
    Work,
    decode_work,
    forward_flops,
    prefill_work,
    training_flops,
    update_size,
)
from mathgrpo.models.shape import model_shape, why_uncountable

BY_HAND = ModelShape(
    linear=100, trained_linear=100, head=50, trained_head=50, attention=8, linear_bytes=400, head_bytes=200, kv_bytes=16
)
T = 24


def counted(model: Any, *, backward: bool) -> int:
    """FLOPs of one row of T tokens by PyTorch's counter. It counts every pair of tokens: T * T, not the causal half."""
    ids = torch.arange(T)[None] % 50
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "gpt2"])
def test_a_forward_and_a_backward_pass_cost_what_the_counter_counts(architecture: str) -> None:
    model = tiny_model(architecture)
    model.config._attn_implementation = "eager"
    assert why_uncountable(model) == ""
    shape = model_shape(model, 4)
    # Within 1 %: the counter also counts the few products that make the rotation angles.
    assert forward_flops(shape, T, T * T, T) == pytest.approx(counted(model, backward=False), rel=0.01)
    assert training_flops(shape, T, T * T, T) == pytest.approx(counted(model, backward=True), rel=0.01)


def test_the_starters_forward_pass_costs_what_the_counter_counts() -> None:
    from transformers import AutoModelForCausalLM

    from mathgrpo.models.locate import starter_path

    model = AutoModelForCausalLM.from_pretrained(starter_path(), attn_implementation="eager")
    shape = model_shape(model, 4)
    # By hand: 5 layers of q and o 192x192, k and v 192x96, gate, up and down 192x512; head 192x1933; 6 heads of 32.
    assert shape.linear == 5 * (2 * 192 * 192 + 2 * 192 * 96 + 3 * 192 * 512)
    assert (shape.head, shape.attention, shape.kv_bytes) == (192 * 1933, 5 * 192, 2 * 5 * 96 * 4)
    assert forward_flops(shape, T, T * T, T) == pytest.approx(counted(model, backward=False), rel=0.001)


def test_frozen_weights_need_no_gradient_of_their_own() -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model("llama", tie_word_embeddings=False)
    base.config._attn_implementation = "eager"
    whole = model_shape(base, 4)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    shape = model_shape(model, 4)
    adapters = 2 * (4 * (32 + 32) + 4 * (32 + 64))
    assert (shape.linear, shape.trained_linear, shape.trained_head) == (whole.linear + adapters, adapters, 0)
    assert whole.trained_linear == whole.linear and whole.trained_head == whole.head
    # The first layer's input needs no gradient (the embedding is frozen), which the formula does not leave out: its
    # q, k, v, with gate and up in the model's one other layer as ballast, is 12 % here and less with every layer more.
    count = counted(model, backward=True)
    assert count <= training_flops(shape, T, T * T, T) <= 1.15 * count


def test_an_update_is_counted_with_each_prompt_once() -> None:
    # Prompt of 3, completions of 2 and 1: inputs p p p c; each sees itself and all before: 1 + 2 + 3, then 4.
    assert update_size([GroupLengths(3, (2, 1))]) == (4, 10, 3)
    # A second completion of 3 adds two inputs, which see 4 and 5 tokens: not the other completion.
    assert update_size([GroupLengths(3, (2, 3))]) == (6, 6 + 4 + 4 + 5, 5)
    assert update_size([GroupLengths(3, (2, 1)), GroupLengths(1, (1,))]) == (5, 11, 4)
    assert update_size([]) == (0, 0, 0)
    # 2 * 100 * 4 + 4 * 8 * 10 + 2 * 50 * 3
    assert forward_flops(BY_HAND, 4, 10, 3) == 800 + 320 + 300
    assert training_flops(BY_HAND, 4, 10, 3) == 3 * (800 + 320 + 300)


def test_decoding_is_counted_step_by_step_with_the_rows_still_live() -> None:
    groups = [GroupLengths(3, (4, 2)), GroupLengths(5, (1,))]
    # 8 prompt tokens, 6 + 15 pairs, 2 prompts' logits; all weights, and 8 tokens' keys and values.
    assert prefill_work(BY_HAND, groups) == Work(2 * 100 * 8 + 4 * 8 * 21 + 2 * 50 * 2, 600 + 8 * 16)
    # Step 1: both rows of the first group, each on its 4 tokens; the prompt's 3 are read once. Step 2 and 3: one row.
    # The second group's row ended with its first token, which the prefill gave.
    assert decode_work(BY_HAND, groups) == [
        Work(2 * 300 + 32 * (4 + 4), 600 + 16 * (3 + 2)),
        Work(300 + 32 * 5, 600 + 16 * (3 + 2)),
        Work(300 + 32 * 6, 600 + 16 * (3 + 3)),
    ]
    assert decode_work(BY_HAND, [GroupLengths(5, (1, 1))]) == [] == decode_work(BY_HAND, [])


def test_decoding_equals_the_sum_over_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))  # noqa: E731
    groups = [GroupLengths(draw(1, 20), tuple(draw(1, 30) for _ in range(4))) for _ in range(6)]
    works = decode_work(BY_HAND, groups)
    for t, work in enumerate(works, start=1):
        live = [(group, n) for group in groups for n in group.completions if n > t]
        prompts = sum(group.prompt for group in groups if max(group.completions) > t)
        assert work.flops == sum(300 + 32 * (group.prompt + t) for group, _ in live)
        assert work.num_bytes == 600 + 16 * (prompts + t * len(live))
    assert len(works) == max(max(group.completions) for group in groups) - 1


def test_what_the_formulas_do_not_fit_is_said_and_not_counted() -> None:
    from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

    small = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    assert "experts" in why_uncountable(MixtralForCausalLM(MixtralConfig(**small, num_local_experts=2)))
    assert "whole context" in why_uncountable(MistralForCausalLM(MistralConfig(**small, sliding_window=16)))
    assert why_uncountable(MistralForCausalLM(MistralConfig(**small, sliding_window=None))) == ""
