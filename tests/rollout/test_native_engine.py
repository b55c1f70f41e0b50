"""The native engine against plain forward passes: tokens, log-probabilities, independence of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.errors import UserError
from mathgrpo.models import Policy, policy_from, qwen_view
from mathgrpo.rollout import build_engine
from mathgrpo.rollout.decoder import Decoder
from mathgrpo.rollout.engine import NativeEngine
from mathgrpo.rollout.hf.cached_decoder import cached_decoder
from mathgrpo.rollout.hf.grouped_decoder import grouped_decoder
from mathgrpo.rollout.sampling import truncate
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.rollout.trial import is_rounding, rounding_difference, trial_difference
from mathgrpo.types import Completion, Prompt, Sampling

FUSED = ("qwen2", "qwen3", "llama")
ALL = (*FUSED, "gpt2")
PROMPTS = tuple(
    Prompt(ids=tuple((7 * i + 11 * j) % 90 + 6 for j in range(length)), key=1000 + i)
    for i, length in enumerate((5, 17, 1, 9))
)


DECODERS: dict[str, Callable[[Policy], Decoder]] = {
    "fused": fused_decoder,
    "cached": cached_decoder,
    "grouped": grouped_decoder,
    "anew": partial(grouped_decoder, remember=False),
}


def tiny_policy(architecture: str = "qwen2", **overrides: Any) -> Policy:
    model = tiny_model(architecture, **overrides)
    return policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name=architecture)


def engine_of(policy: Policy, path: str, max_rows: int = 0) -> Any:
    return NativeEngine(policy, DECODERS[path](policy), max_rows=max_rows)


@torch.no_grad()
def plain_logits(policy: Policy, prompt: Prompt, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits from which each of ids was drawn: one full forward, no cache."""
    sequence = torch.tensor([[*prompt.ids, *ids]])
    return policy.model(input_ids=sequence, use_cache=False).logits[0, len(prompt.ids) - 1 : -1]


@torch.no_grad()
def plain_greedy(policy: Policy, prompt: Prompt, max_new_tokens: int) -> tuple[int, ...]:
    ids: list[int] = []
    while len(ids) < max_new_tokens and not (ids and ids[-1] in policy.eos_ids):
        sequence = torch.tensor([[*prompt.ids, *ids]])
        ids.append(int(policy.model(input_ids=sequence, use_cache=False).logits[0, -1].argmax()))
    return tuple(ids)


def paths(architecture: str) -> tuple[str, ...]:
    return tuple(DECODERS)[architecture == "gpt2" :]


@pytest.mark.parametrize("architecture", ALL)
def test_greedy_tokens_equal_a_plain_full_forward(architecture: str) -> None:
    policy = tiny_policy(architecture)
    expected = [plain_greedy(policy, prompt, 14) for prompt in PROMPTS]
    for path in paths(architecture):
        got = engine_of(policy, path).generate(PROMPTS, 1, Sampling(max_new_tokens=14, temperature=0.0))
        assert [group[0].ids for group in got] == expected, path


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=16, seed=3),
        Sampling(max_new_tokens=16, temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, seed=3),
        Sampling(max_new_tokens=8, temperature=0.0),
    ],
    ids=["plain", "truncated", "greedy"],
)
def test_sampling_logprobs_equal_a_reforward_of_the_sampled_sequence(architecture: str, sampling: Sampling) -> None:
    policy = tiny_policy(architecture)
    for path in paths(architecture):
        for prompt, group in zip(PROMPTS, engine_of(policy, path).generate(PROMPTS, 3, sampling), strict=True):
            for completion in group:
                logits = plain_logits(policy, prompt, completion.ids)
                if sampling.temperature:
                    logits = truncate(logits / sampling.temperature, sampling)
                expected = logits.log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
                torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ALL)
def test_every_path_draws_the_same_completions(architecture: str) -> None:
    policy = tiny_policy(architecture)
    sampling = Sampling(max_new_tokens=24, seed=11)
    drawn = [ids_of(engine_of(policy, path).generate(PROMPTS, 3, sampling)) for path in paths(architecture)]
    assert all(ids == drawn[0] for ids in drawn)


def ids_of(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.ids for completion in group] for group in groups]


@pytest.mark.parametrize("path", ["fused", "cached", "grouped", "anew"])
def test_draws_do_not_depend_on_the_batch(path: str) -> None:
    """Few slots force refills at different ages, and rows end at different lengths: the draws stay the same."""
    policy = tiny_policy(seed=2)
    policy.model.lm_head.weight.data[1] *= 1.5
    sampling = Sampling(max_new_tokens=68, seed=5)
    expected = ids_of(engine_of(policy, path).generate(PROMPTS, 4, sampling))
    lengths = {len(ids) for group in expected for ids in group}
    assert len(lengths) > 5, "the rows must end at different lengths for this test to mean anything"
    for max_rows in (3, 10):
        assert ids_of(engine_of(policy, path, max_rows).generate(PROMPTS, 4, sampling)) == expected
    backwards = ids_of(engine_of(policy, path).generate(PROMPTS[::-1], 4, sampling))
    assert backwards[::-1] == expected
    alone = engine_of(policy, path).generate(PROMPTS[1:2], 2, sampling)
    assert ids_of(alone)[0] == expected[1][:2]


@pytest.mark.parametrize("path", ["fused", "cached"])
def test_logprobs_stay_right_through_refills(path: str) -> None:
    policy = tiny_policy()
    prompts = tuple(
        Prompt(ids=tuple((5 * i + 3 * j) % 90 + 6 for j in range(1 + (7 * i) % 13)), key=i) for i in range(8)
    )
    groups = engine_of(policy, path, max_rows=5).generate(prompts, 3, Sampling(max_new_tokens=70, seed=1))
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            expected = plain_logits(policy, prompt, completion.ids).log_softmax(-1)
            expected = expected.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("path", ["fused", "cached", "grouped", "anew"])
def test_any_of_several_end_ids_ends_a_completion(path: str) -> None:
    policy = tiny_policy()
    free = engine_of(policy, path).generate(PROMPTS, 2, Sampling(max_new_tokens=30, seed=1))
    others = {completion.ids[len(completion.ids) // 2] for completion in chain(*free[:2])}
    many = replace(policy, eos_ids=tuple(sorted({1, *others})))
    ended = engine_of(many, path).generate(PROMPTS, 2, Sampling(max_new_tokens=30, seed=1))
    for before, after in zip(chain(*free), chain(*ended), strict=True):
        stop = next((i + 1 for i, token in enumerate(before.ids) if token in many.eos_ids), len(before.ids))
        assert after.ids == before.ids[:stop]
        assert after.finish_reason == ("eos" if after.ids[-1] in many.eos_ids else "length")
        assert len(after.logprobs) == len(after.ids)
    assert {completion.ids[-1] for completion in chain(*ended)} & (others - {1})


@pytest.mark.parametrize("path", ["fused", "cached", "grouped", "anew"])
@pytest.mark.parametrize("max_new_tokens", [1, 2, 65])
def test_max_new_tokens_is_exact(path: str, max_new_tokens: int) -> None:
    policy = tiny_policy()
    endless = replace(policy, eos_ids=())
    groups = engine_of(endless, path).generate(PROMPTS[:2], 2, Sampling(max_new_tokens=max_new_tokens))
    for completion in chain(*groups):
        assert len(completion.ids) == max_new_tokens and completion.finish_reason == "length"


@pytest.mark.parametrize("path", ["fused", "cached"])
def test_weights_changed_in_place_are_seen(path: str) -> None:
    policy = tiny_policy()
    engine = engine_of(policy, path)
    greedy = Sampling(max_new_tokens=12, temperature=0.0)
    before = engine.generate(PROMPTS, 1, greedy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    after = engine.generate(PROMPTS, 1, greedy)
    assert [group[0].ids for group in after] == [plain_greedy(policy, prompt, 12) for prompt in PROMPTS]
    assert ids_of(after) != ids_of(before)


@pytest.mark.parametrize("path", ["fused", "cached", "grouped", "anew"])
def test_the_model_is_left_as_it_was(path: str) -> None:
    policy = tiny_policy()
    policy.model.train()
    policy.model.model.layers[1].eval()
    modes = [module.training for module in policy.model.modules()]
    before = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    engine_of(policy, path).generate(PROMPTS, 2, Sampling(max_new_tokens=5))
    assert [module.training for module in policy.model.modules()] == modes
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    for name, parameter in policy.model.named_parameters():
        assert parameter.requires_grad and parameter.grad is None and torch.equal(parameter, before[name])
    policy.model(input_ids=torch.tensor([PROMPTS[0].ids])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.model.parameters())


def with_adapter(policy: Policy) -> Policy:
    from mathgrpo.config.recipe import LoraSection
    from mathgrpo.models.lora import attach_adapter

    model = attach_adapter(policy.model, LoraSection(r=4, alpha=8, dropout=0.5)).eval()
    return replace(policy, model=model)


@pytest.mark.parametrize("path", ["fused", "cached", "grouped", "anew"])
def test_an_adapter_is_seen(path: str) -> None:
    plain = tiny_policy()
    greedy = Sampling(max_new_tokens=12, temperature=0.0)
    before = ids_of(engine_of(plain, path).generate(PROMPTS, 1, greedy))
    policy = with_adapter(plain)
    assert ids_of(engine_of(policy, path).generate(PROMPTS, 1, greedy)) == before, "B is 0: nothing may change"
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    policy.model.train()  # its dropout must not reach the rollout
    after = ids_of(engine_of(policy, path).generate(PROMPTS, 1, greedy))
    policy.model.eval()
    assert after == [[plain_greedy(policy, prompt, 12)] for prompt in PROMPTS] and after != before


def test_the_engine_is_chosen_by_architecture() -> None:
    from transformers import AutoModelForCausalLM, MambaConfig

    assert build_engine(tiny_policy("qwen3"), compiled=False).reason == "fused decoder"
    assert build_engine(with_adapter(tiny_policy()), compiled=False).reason == "fused decoder"
    gpt2 = build_engine(tiny_policy("gpt2"))
    assert gpt2.name == "native" and "GPT2LMHeadModel" in gpt2.reason
    config = MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, state_size=4, eos_token_id=1)
    mamba = AutoModelForCausalLM.from_config(config).eval()
    policy = policy_from(mamba, tiny_tokenizer(), device="cpu", dtype=torch.float32, name="mamba")
    for kind in ("fast", "plain"):
        fallback = build_engine(policy, kind)
        assert fallback.name == "fallback"
        assert fallback.reason.startswith("model forward, prompt by prompt, slow; ")
        assert "recurrent state" in fallback.reason
        got = fallback.generate(PROMPTS, 1, Sampling(max_new_tokens=6, temperature=0.0))
        assert [group[0].ids for group in got] == [plain_greedy(policy, prompt, 6) for prompt in PROMPTS]


def test_plain_is_the_models_own_forward_pass() -> None:
    policy = tiny_policy()
    plain, sampling = build_engine(policy, "plain"), Sampling(max_new_tokens=20, seed=4)
    assert plain.reason == "model forward with slot cache"
    assert ids_of(plain.generate(PROMPTS, 2, sampling)) == ids_of(build_engine(policy).generate(PROMPTS, 2, sampling))


def test_a_sliding_window_goes_through_the_models_own_masks() -> None:
    policy = tiny_policy("qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1)
    assert policy.model.config.layer_types == ["full_attention", "sliding_attention"]
    engine = build_engine(policy)
    assert engine.name == "native" and "sliding-window" in engine.reason
    got = engine.generate(PROMPTS, 1, Sampling(max_new_tokens=14, temperature=0.0))
    assert [group[0].ids for group in got] == [plain_greedy(policy, prompt, 14) for prompt in PROMPTS]


def test_logits_large_beside_their_spread_are_rounded_coarsely_and_no_reason_to_refuse_a_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of trained models: a mean of 20 and a spread of 2, where neighbours in bfloat16 are 1/8 apart."""
    model = tiny_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] += 4
        model.lm_head.weight[:, 0] += 12
    policy = replace(tiny_policy(), model=model, compute_dtype=torch.bfloat16)
    own = rounding_difference(policy)
    assert own > 0.06 and is_rounding(own, policy) and is_rounding(2 * own, policy) and not is_rounding(4 * own, policy)
    assert build_engine(policy, compiled=False).reason == "fused decoder"
    assert not is_rounding(float("nan"), policy)
    real = qwen_view.effective_weight
    monkeypatch.setattr(qwen_view, "effective_weight", lambda module: real(module) * 3)
    assert build_engine(policy, compiled=False).reason.startswith("model forward with slot cache; ")


def test_a_decoder_that_computes_something_else_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    assert trial_difference(NativeEngine(policy, fused_decoder(policy)), policy) < 1e-4
    real = qwen_view.effective_weight
    monkeypatch.setattr(qwen_view, "effective_weight", lambda module: real(module) * 1.1)
    assert trial_difference(NativeEngine(policy, fused_decoder(policy)), policy) > 1e-2
    assert build_engine(policy, compiled=False).reason.startswith(
        "model forward with slot cache; fused decoder failed its trial"
    )
    assert build_engine(policy).reason.startswith("model forward with slot cache; ")


@pytest.mark.parametrize("path", ["cached", "grouped", "anew"])
def test_more_than_the_context_is_refused(path: str) -> None:
    engine = engine_of(replace(tiny_policy("gpt2"), max_context=32), path)
    assert engine.generate(PROMPTS[1:2], 1, Sampling(max_new_tokens=15))
    with pytest.raises(UserError, match=r"use at most 15 "):
        engine.generate(PROMPTS[:2], 1, Sampling(max_new_tokens=16))


def test_no_prompts_give_no_groups() -> None:
    assert build_engine(tiny_policy()).generate([], 4, Sampling(max_new_tokens=3)) == []
