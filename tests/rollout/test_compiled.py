"""The compiled decoder computes what the torch path computes: logits, tokens, log-probabilities, draws."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch

from fakes import randomised, tiny_model, tiny_tokenizer
from mathgrpo.models import Policy, policy_from
from mathgrpo.rollout.c import KernelError, load_kernels
from mathgrpo.rollout.c.c_decoder import CompiledSession, compiled_decoder
from mathgrpo.rollout.c.library import why_not_compiled
from mathgrpo.rollout.engine import NativeEngine
from mathgrpo.rollout.sampling import row_keys, sample_tokens, uniforms
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.rollout.trial import trial_difference
from mathgrpo.types import Completion, Prompt, Sampling

PROMPTS = tuple(
    Prompt(ids=tuple((7 * i + 11 * j) % 90 + 6 for j in range(length)), key=1000 + i)
    for i, length in enumerate((5, 17, 1, 9, 33, 64))
)
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {}),  # bias on q, k, v
    ("qwen3", {}),  # norms of queries and keys
    ("llama", {}),  # neither
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("qwen2", {"tie_word_embeddings": False, "vocab_size": 131}),
    ("llama", {"num_key_value_heads": 4}),  # a query head for each key-value head
    ("qwen3", {"num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 24}),
    ("qwen3", {"num_attention_heads": 10, "num_key_value_heads": 1, "head_dim": 48, "intermediate_size": 70}),
]
NAMES = [f"{name}-{i}" for i, (name, _) in enumerate(MODELS)]


def available(dtype: torch.dtype) -> bool:
    try:
        load_kernels(dtype)
    except KernelError:
        return False
    return True


pytestmark = pytest.mark.skipif(not available(torch.float32), reason="no C compiler on this machine")
needs_bf16 = pytest.mark.skipif(not available(torch.bfloat16), reason="this CPU has no AVX512-BF16")


def policy_of(architecture: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Policy:
    model = randomised(tiny_model(architecture, **overrides))
    return policy_from(model, tiny_tokenizer(), device="cpu", dtype=dtype, name=architecture)


def engines(policy: Policy, max_rows: int = 0) -> tuple[NativeEngine, NativeEngine]:
    return tuple(NativeEngine(policy, make(policy), max_rows=max_rows) for make in (compiled_decoder, fused_decoder))  # type: ignore[return-value]


def flat(groups: list[list[Completion]]) -> list[Completion]:
    return list(chain(*groups))


def assert_same(got: list[list[Completion]], expected: list[list[Completion]], tolerance: float = 1e-5) -> None:
    assert [c.ids for c in flat(got)] == [c.ids for c in flat(expected)]
    assert [c.finish_reason for c in flat(got)] == [c.finish_reason for c in flat(expected)]
    ours, theirs = (torch.tensor([p for c in flat(groups) for p in c.logprobs]) for groups in (got, expected))
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("architecture", "overrides"), MODELS, ids=NAMES)
def test_logits_equal_the_plain_forward(architecture: str, overrides: dict[str, Any]) -> None:
    policy = policy_of(architecture, **overrides)
    assert why_not_compiled(policy) == ""
    assert trial_difference(NativeEngine(policy, compiled_decoder(policy)), policy) < 1e-5


@pytest.mark.parametrize(("architecture", "overrides"), MODELS, ids=NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_tokens_and_logprobs_are_the_torch_paths(
    architecture: str, overrides: dict[str, Any], temperature: float
) -> None:
    """Prompts of 1 to 64 tokens; completions cross pages of 32 positions; rows end and are dropped on the way."""
    policy = policy_of(architecture, **overrides)
    compiled, fused = engines(policy)
    sampling = Sampling(max_new_tokens=70, temperature=temperature, seed=4)
    expected = fused.generate(PROMPTS, 3, sampling)
    assert_same(compiled.generate(PROMPTS, 3, sampling), expected, 2e-5)


@pytest.mark.parametrize("max_rows", [1, 3, 10])
def test_rows_that_wait_are_admitted_midway(max_rows: int) -> None:
    policy = policy_of("qwen2", seed=2)
    policy.model.lm_head.weight.data[1] *= 1.5
    sampling = Sampling(max_new_tokens=68, seed=5)
    expected = engines(policy)[1].generate(PROMPTS, 4, sampling)
    assert len({len(c.ids) for c in flat(expected)}) > 5, "the rows must end at different lengths"
    assert_same(engines(policy, max_rows)[0].generate(PROMPTS, 4, sampling), expected)


def test_any_of_several_end_ids_ends_a_completion() -> None:
    policy = policy_of("qwen2")
    free = engines(policy)[1].generate(PROMPTS, 2, Sampling(max_new_tokens=30, seed=1))
    others = {c.ids[len(c.ids) // 2] for c in flat(free)[:4]}
    many = replace(policy, eos_ids=tuple(sorted({1, *others})))
    compiled, fused = engines(many)
    expected = fused.generate(PROMPTS, 2, Sampling(max_new_tokens=30, seed=1))
    assert {c.ids[-1] for c in flat(expected)} & (others - {1})
    assert_same(compiled.generate(PROMPTS, 2, Sampling(max_new_tokens=30, seed=1)), expected)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 33, 130])
def test_max_new_tokens_is_exact(max_new_tokens: int) -> None:
    policy = replace(policy_of("qwen2"), eos_ids=())
    got = engines(policy)[0].generate(PROMPTS[:2], 2, Sampling(max_new_tokens=max_new_tokens))
    assert [(len(c.ids), c.finish_reason) for c in flat(got)] == [(max_new_tokens, "length")] * 4


@pytest.mark.parametrize("truncation", [{"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.05}])
def test_truncations_take_the_logits(truncation: dict[str, Any]) -> None:
    policy = policy_of("qwen3")
    sampling = Sampling(max_new_tokens=40, seed=9, **truncation)
    compiled, fused = engines(policy)
    assert_same(compiled.generate(PROMPTS, 3, sampling), fused.generate(PROMPTS, 3, sampling))


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_is_the_same_bits_in_every_batch(dtype: torch.dtype, threads: int) -> None:
    """Few rows split the columns among threads, many rows the rows: neither may change a bit."""
    policy = policy_of("qwen2", dtype, num_attention_heads=6, num_key_value_heads=3, head_dim=16)
    sampling = Sampling(max_new_tokens=50, seed=3)
    before = torch.get_num_threads()
    together = engines(policy)[0].generate(PROMPTS, 12, sampling)
    torch.set_num_threads(threads)
    try:
        alone = [engines(policy)[0].generate([prompt], 5, sampling)[0] for prompt in PROMPTS]
        backwards = engines(policy, 7)[0].generate(PROMPTS[::-1], 12, sampling)[::-1]
    finally:
        torch.set_num_threads(before)
    assert [group[:5] for group in together] == alone
    assert together == backwards


def session_of_rows(policy: Policy, rows: int) -> CompiledSession:
    session = compiled_decoder(policy).open(max_rows=rows, positions=7)
    session.prefill({0: [3, 4, 5]})
    session.admit([0] * rows)
    return session


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_a_draw_is_the_torch_samplers(temperature: float) -> None:
    """4,000 draws from one row of logits. A sum of 1,933 weights is known to about 1e-7 of itself, a token's interval
    is about 5e-4 wide: one draw in 5,000 may fall on the other side of an edge, to the neighbouring token."""
    policy = policy_of("qwen2", vocab_size=1933)
    rows = 4000
    keys = row_keys(7, list(range(rows)), [0] * rows)
    tokens, ages = torch.full((rows,), 9), torch.arange(rows) % 5
    sampling = Sampling(max_new_tokens=4, temperature=temperature)
    never = torch.tensor([-1])
    temperatures = torch.full((rows,), temperature, dtype=torch.float64)
    session = session_of_rows(policy, rows)
    ids, logprobs, _ = session.advance(tokens, keys, ages, temperatures, steps=1, ends=never)
    logits = session_of_rows(policy, rows).step(tokens)
    expected, expected_logprobs = sample_tokens(logits, uniforms(keys, ages), sampling)
    same = ids[:, 0] == expected
    assert int((~same).sum()) <= 5 and int((ids[:, 0] - expected).abs().max()) <= 1
    torch.testing.assert_close(logprobs[same, 0], expected_logprobs[same], atol=2e-6, rtol=2e-6)


def test_draws_follow_the_distribution() -> None:
    """Chi-square of 40,000 draws against the plain forward's probabilities: below the 99.9 % quantile."""
    policy = policy_of("qwen2")
    rows = 40_000
    session = session_of_rows(policy, rows)
    keys = row_keys(1, list(range(rows)), [0] * rows)
    start, ones = torch.zeros(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.float64)
    ids, _, _ = session.advance(torch.full((rows,), 9), keys, start, ones, steps=1, ends=torch.tensor([-1]))
    with torch.no_grad():
        expected = policy.model(torch.tensor([[3, 4, 5, 9]])).logits[0, -1].softmax(-1).double() * rows
    counts = torch.bincount(ids[:, 0], minlength=len(expected)).double()
    often = expected >= 5
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    rest, rest_expected = counts[~often].sum(), expected[~often].sum()
    statistic += (rest - rest_expected) ** 2 / rest_expected.clamp_min(1e-9)
    freedom = int(often.sum())
    # Wilson and Hilferty's approximation of the chi-square quantile
    bound = freedom * (1 - 2 / (9 * freedom) + 3.0902 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert freedom > 20 and statistic < bound


def test_weights_changed_in_place_are_seen() -> None:
    policy = policy_of("qwen2")
    compiled, fused = engines(policy)
    greedy = Sampling(max_new_tokens=20, temperature=0.0)
    before = compiled.generate(PROMPTS, 1, greedy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    after = compiled.generate(PROMPTS, 1, greedy)
    assert_same(after, fused.generate(PROMPTS, 1, greedy))
    assert [c.ids for c in flat(after)] != [c.ids for c in flat(before)]


def test_an_adapter_is_seen_and_the_model_left_alone() -> None:
    from mathgrpo.config.recipe import LoraSection
    from mathgrpo.models.lora import attach_adapter

    plain = policy_of("qwen2")
    policy = replace(plain, model=attach_adapter(plain.model, LoraSection(r=4, alpha=8)).eval())
    greedy = Sampling(max_new_tokens=20, temperature=0.0)
    before = engines(policy)[0].generate(PROMPTS, 1, greedy)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    kept = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    compiled, fused = engines(policy)
    after = compiled.generate(PROMPTS, 1, greedy)
    assert_same(after, fused.generate(PROMPTS, 1, greedy))
    assert [c.ids for c in flat(after)] != [c.ids for c in flat(before)]
    assert all(torch.equal(parameter, kept[name]) for name, parameter in policy.model.named_parameters())


@needs_bf16
@pytest.mark.parametrize(("architecture", "overrides"), MODELS, ids=NAMES)
def test_bfloat16_is_within_its_rounding(architecture: str, overrides: dict[str, Any]) -> None:
    """As far from the model under autocast as bf16 (8 bits) explains, and as the torch path in bf16 is."""
    policy = policy_of(architecture, torch.bfloat16, **overrides)
    assert trial_difference(NativeEngine(policy, compiled_decoder(policy)), policy) < 0.08
    completions = engines(policy)[0].generate(PROMPTS, 2, Sampling(max_new_tokens=40, seed=2))
    gaps = []
    for prompt, group in zip(PROMPTS, completions, strict=True):
        for completion in group:
            with torch.no_grad(), policy.autocast():
                ids = torch.tensor([[*prompt.ids, *completion.ids]])
                logits = policy.model(ids).logits[0, len(prompt.ids) - 1 : -1].float()
            plain = logits.log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
            gaps.append((torch.tensor(completion.logprobs) - plain).abs())
    assert torch.cat(gaps).mean() < 0.05


def test_memory_does_not_creep() -> None:
    """Each session has over 1 MB of buffers and pages: forty that are not given back would show."""
    resource = pytest.importorskip("resource")
    engine = engines(policy_of("qwen2"))[0]

    def peak_mb() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (2**20 if sys.platform == "darwin" else 2**10)

    def rollouts(count: int) -> None:
        for seed in range(count):
            engine.generate(PROMPTS, 8, Sampling(max_new_tokens=30 + seed % 30, seed=seed))

    rollouts(10)
    before = peak_mb()
    rollouts(40)
    assert peak_mb() - before < 8
