"""Rotary embeddings that change with the length: one for a whole run, and none is touched that need not be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.models.load_policy import context_length, policy_from
from mathgrpo.models.long_texts import telling_length
from mathgrpo.models.settled_rope import settle_rope, steady_length
from mathgrpo.rollout import build_engine
from mathgrpo.types import Prompt, Sampling
from update.architecture_cases import VARIANTS, tiny_of


def logits(model: Any, length: int) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(6, 6 + length)[None], use_cache=False).logits[0]
    return result


@pytest.mark.parametrize(("name", "steady", "context"), [("longrope", 16, 512), ("dynamic ntk", 32, 128)])
def test_long_texts_settle_the_angles_of_short_ones(name: str, steady: int, context: int) -> None:
    model = tiny_of(*VARIANTS[name])
    assert steady_length(model) == steady and context_length(model.config) == context
    short, long = logits(model, 10), logits(model, steady + 8)
    assert not settle_rope(model, steady) and torch.equal(logits(model, 10), short)
    frozen = copy.deepcopy(model)
    assert settle_rope(model, steady + 1) and settle_rope(model, 0)
    assert not torch.allclose(logits(model, 10), short, atol=1e-3)
    torch.testing.assert_close(logits(model, steady + 8)[:10], logits(model, 10), atol=1e-5, rtol=1e-5)
    if name == "longrope":
        torch.testing.assert_close(logits(model, steady + 8), long)
    assert torch.equal(logits(frozen, 10), short)


def test_an_engine_settles_them_when_texts_become_long() -> None:
    kind, settings = VARIANTS["longrope"]
    rope = settings["rope_parameters"] | {"original_max_position_embeddings": 32}
    model = tiny_of(kind, {"original_max_position_embeddings": 32, "rope_parameters": rope})
    policy = policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")
    engine, short = build_engine(policy, "plain"), logits(model, 10)
    engine.generate([Prompt(tuple(range(6, 34)), 0)], 1, Sampling(4))
    assert torch.equal(logits(model, 10), short)
    engine.generate([Prompt(tuple(range(6, 34)), 0)], 1, Sampling(5))
    assert not torch.allclose(logits(model, 10), short, atol=1e-3)


def test_a_trial_goes_just_beyond_the_longest_length_that_matters() -> None:
    windowed = tiny_of("mistral", {"sliding_window": 100})
    assert [telling_length(windowed, longest) for longest in (12, 40, 90, 130, 400)] == [0, 40, 64, 130, 164]
    assert telling_length(tiny_of("gpt2", {}), 300) == 64
    assert telling_length(tiny_model("qwen2"), 10**6) == 0
    nested = tiny_of(*VARIANTS["longrope"])
    assert telling_length(nested, 500) == 80
