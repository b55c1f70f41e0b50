"""What `solve` streams is what the engine would have drawn."""

from __future__ import annotations

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.models import policy_from
from mathgrpo.rollout import build_engine
from mathgrpo.serving.stream import stream_text, stream_tokens
from mathgrpo.types import Problem, Sampling


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_streamed_tokens_equal_the_engines(architecture: str, temperature: float) -> None:
    policy = policy_from(tiny_model(architecture), tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")
    prompt = encode_prompt(policy.tokenizer, Problem("What is 2 + 2?", "4"), get_format("boxed"))
    sampling = Sampling(max_new_tokens=24, temperature=temperature, seed=5)
    [[completion]] = build_engine(policy).generate([prompt], 1, sampling)
    assert tuple(stream_tokens(policy, prompt, sampling)) == completion.ids
    tokens: list[int] = []
    text = "".join(stream_text(policy, prompt, sampling, tokens))
    ends = completion.ids[:-1] if completion.finish_reason == "eos" else completion.ids
    assert tuple(tokens) == completion.ids
    assert text == policy.tokenizer.decode(ends)
