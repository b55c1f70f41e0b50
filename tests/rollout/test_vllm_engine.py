"""The contract of the vLLM engine, against a stand-in of its server and, where there is one, the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config.recipe import LoraSection, ModelSection, VllmSection
from mathgrpo.errors import UserError
from mathgrpo.models import Policy, load_policy
from mathgrpo.models.load_policy import policy_from
from mathgrpo.models.lora import attach_adapter
from mathgrpo.rollout import build_engine
from mathgrpo.rollout.sampling import truncate
from mathgrpo.rollout.vllm import VllmEngine, build_vllm_engine
from mathgrpo.rollout.vllm.start_engine import exchange_folder
from mathgrpo.rollout.vllm.versions import PYTHON_VARIABLE
from mathgrpo.types import Prompt, Sampling
from rollout.vllm_standin import StandIn, serving

TOLERANCE = 2e-4
REAL = pytest.param(
    "real",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(PYTHON_VARIABLE not in os.environ, reason=f"{PYTHON_VARIABLE} names no Python with vLLM"),
    ],
)


def tiny_policy(**overrides: Any) -> Policy:
    model = tiny_model(**overrides)
    return policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")


def saved(policy: Policy, folder: Path) -> Path:
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["stand-in", REAL])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """An engine on a server with the weights of its policy; tests may change the policy."""
    if request.param == "real":
        policy = load_policy(ModelSection(path="starter", dtype="float32"), "cpu", train=True)
        real = build_vllm_engine(policy, VllmSection(arguments=("--enforce-eager",)))
        yield real
        real.close()
        return
    policy = tiny_policy()
    with serving(StandIn(saved(tiny_policy(seed=5), tmp_path_factory.mktemp("model")))) as url:
        yield build_vllm_engine(policy, VllmSection(url=url))


def prompts_of(engine: VllmEngine) -> list[Prompt]:
    texts = ["What is 3 + 4?", "A", "Tom has 12 pens and buys 3 more."]
    tokenizer = engine._policy.tokenizer
    return [Prompt(tuple(tokenizer(text)["input_ids"]), key) for key, text in enumerate(texts)]


@torch.no_grad()
def expected_logprobs(policy: Policy, prompt: Prompt, ids: tuple[int, ...], sampling: Sampling) -> list[float]:
    """Log-probabilities of ids under the distribution they should have been drawn from: one plain forward pass."""
    logits = policy.model(input_ids=torch.tensor([[*prompt.ids, *ids]])).logits[0, len(prompt.ids) - 1 : -1]
    scores = truncate(logits / sampling.temperature, sampling) if sampling.temperature else logits
    values: list[float] = scores.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
    return values


def require_from_policy(engine: VllmEngine, policy: Policy, sampling: Sampling) -> None:
    """Check every completion's form, and its log-probabilities against the policy's."""
    prompts = prompts_of(engine)
    for prompt, rows in zip(prompts, engine.generate(prompts, 3, sampling), strict=True):
        assert len(rows) == 3
        for row in rows:
            assert 1 <= len(row.ids) == len(row.logprobs) <= sampling.max_new_tokens
            ended = row.ids[-1] in policy.eos_ids
            assert row.finish_reason == ("eos" if ended else "length")
            assert ended or len(row.ids) == sampling.max_new_tokens
            assert not set(row.ids[:-1]) & set(policy.eos_ids)
            assert row.logprobs == pytest.approx(expected_logprobs(policy, prompt, row.ids, sampling), abs=TOLERANCE)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=24),
        Sampling(max_new_tokens=12, temperature=0.7, top_k=5, seed=3),
        Sampling(max_new_tokens=12, temperature=1.3, top_p=0.8, seed=4),
    ],
)
def test_log_probabilities_are_those_of_the_distribution_drawn_from(engine: VllmEngine, sampling: Sampling) -> None:
    require_from_policy(engine, engine._policy, sampling)


def test_greedy_is_the_argmax_of_the_policy(engine: VllmEngine) -> None:
    policy, prompts = engine._policy, prompts_of(engine)
    drawn = engine.generate(prompts, 2, Sampling(max_new_tokens=8, temperature=0.0))
    native = build_engine(policy, compiled=False).generate(prompts, 1, Sampling(max_new_tokens=8, temperature=0.0))
    assert [rows[0].ids for rows in drawn] == [rows[0].ids for rows in native]
    assert all(rows[0] == rows[1] for rows in drawn)


def test_samples_of_a_group_differ_and_a_new_seed_draws_anew(engine: VllmEngine) -> None:
    prompts = prompts_of(engine)
    one = engine.generate(prompts, 4, Sampling(max_new_tokens=16, temperature=1.5, seed=1))
    other = engine.generate(prompts, 4, Sampling(max_new_tokens=16, temperature=1.5, seed=2))
    assert all(len({row.ids for row in rows}) > 1 for rows in one)
    assert [[row.ids for row in rows] for rows in one] != [[row.ids for row in rows] for rows in other]


def test_changed_weights_are_pushed_before_the_next_rollout_and_unchanged_ones_are_not(engine: VllmEngine) -> None:
    policy, sampling = engine._policy, Sampling(max_new_tokens=8)
    engine.generate(prompts_of(engine), 1, sampling)
    engine.generate(prompts_of(engine), 1, sampling)
    assert engine.metrics == {"vllm/pushed": 0.0, "vllm/push_seconds": 0.0}
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    try:
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        require_from_policy(engine, policy, sampling)
        assert engine.metrics["vllm/pushed"] == 1.0
        assert engine.metrics["vllm/probe_difference/max"] < TOLERANCE
    finally:
        policy.model.load_state_dict(before)


def test_the_smallest_change_of_one_weight_is_noticed(engine: VllmEngine) -> None:
    sampling = Sampling(max_new_tokens=2)
    engine.generate(prompts_of(engine), 1, sampling)
    weight = engine._policy.model.get_input_embeddings().weight
    with torch.no_grad():
        old = weight[3, 3].item()
        weight[3, 3] = torch.nextafter(weight[3, 3], torch.tensor(9.0))
    engine.generate(prompts_of(engine), 1, sampling)
    assert engine.metrics["vllm/pushed"] == 1.0
    with torch.no_grad():
        weight[3, 3] = old


def test_an_adapter_is_merged_into_what_is_served_and_not_into_the_model(engine: VllmEngine) -> None:
    if engine._policy.name == "tiny":
        policy = tiny_policy()
    else:
        policy = load_policy(ModelSection(path="starter", dtype="float32"), "cpu", train=True)
    adapted = attach_adapter(policy.model, LoraSection(r=4, alpha=8, target_modules=("q_proj", "down_proj")))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    base = adapted.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.clone()
    with_adapter = policy_from(adapted, policy.tokenizer, device="cpu", dtype=torch.float32, name="adapted")
    section = VllmSection()
    other = VllmEngine(with_adapter, engine._backend, section, exchange_folder(section))
    sampling = Sampling(max_new_tokens=12)
    require_from_policy(other, with_adapter, sampling)
    assert torch.equal(base, adapted.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight)
    plain = policy_from(adapted, policy.tokenizer, device="cpu", dtype=torch.float32, name="off")
    prompt = prompts_of(engine)[0]
    [[row]] = other.generate([prompt], 1, sampling)
    with adapted.disable_adapter():
        off = expected_logprobs(plain, prompt, row.ids, sampling)
        assert max(abs(a - b) for a, b in zip(off, row.logprobs, strict=True)) > 0.01  # so the check could fail
        require_from_policy(other, plain, sampling)  # switching it off is a change of weights too
    engine._pushed = None


def test_the_context_is_checked_before_anything_is_asked(engine: VllmEngine) -> None:
    with pytest.raises(UserError, match="exceeds the"):
        engine.generate(prompts_of(engine), 1, Sampling(max_new_tokens=engine._policy.max_context))


def test_no_prompts_ask_for_nothing(engine: VllmEngine) -> None:
    assert engine.generate([], 4, Sampling(max_new_tokens=3)) == []
