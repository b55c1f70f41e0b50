"""The graph engine against the native engine: eagerly on a CPU, captured where there is a CUDA device."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any, NoReturn

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.errors import UserError
from mathgrpo.models import Policy, policy_from, qwen_view
from mathgrpo.rollout import build_engine
from mathgrpo.rollout.cuda import graphs
from mathgrpo.rollout.cuda.graph_engine import GraphEngine, build_graph_engine
from mathgrpo.rollout.cuda.kernels import TorchKernels
from mathgrpo.rollout.engine import NativeEngine
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.rollout.trial import trial_difference
from mathgrpo.types import Completion, Prompt, Sampling

PROMPTS = tuple(
    Prompt(ids=tuple((7 * i + 11 * j) % 90 + 6 for j in range(length)), key=1000 + i)
    for i, length in enumerate((5, 17, 1, 9))
)
SAMPLINGS = {
    "plain": Sampling(max_new_tokens=40, seed=5),
    "truncated": Sampling(max_new_tokens=20, temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, seed=3),
    "greedy": Sampling(max_new_tokens=12, temperature=0.0),
}


def tiny_policy(
    architecture: str = "qwen2", device: str = "cpu", dtype: torch.dtype = torch.float32, **overrides: Any
) -> Policy:
    model = tiny_model(architecture, **({"seed": 2} | overrides)).to(device)
    return policy_from(model, tiny_tokenizer(), device=device, dtype=dtype, name=architecture)


def eager(policy: Policy, max_rows: int = 0) -> GraphEngine:
    return GraphEngine(policy, TorchKernels(), max_rows=max_rows, graphs=False)


def native(policy: Policy) -> NativeEngine:
    return NativeEngine(policy, fused_decoder(policy))


def assert_same(got: list[list[Completion]], expected: list[list[Completion]], atol: float = 2e-5) -> None:
    assert [len(group) for group in got] == [len(group) for group in expected]
    for mine, theirs in zip(chain(*got), chain(*expected), strict=True):
        assert mine.ids == theirs.ids and mine.finish_reason == theirs.finish_reason
        torch.testing.assert_close(torch.tensor(mine.logprobs), torch.tensor(theirs.logprobs), atol=atol, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("kind", SAMPLINGS)
def test_completions_equal_the_native_engines(architecture: str, kind: str) -> None:
    """All rows at once, and few slots that are refilled at different ages."""
    policy = tiny_policy(architecture)
    expected = native(policy).generate(PROMPTS, 4, SAMPLINGS[kind])
    for max_rows in (0, 3):
        assert_same(eager(policy, max_rows).generate(PROMPTS, 4, SAMPLINGS[kind]), expected)


def test_one_engine_serves_calls_of_every_size() -> None:
    """Memory, places and output are kept between calls; what a call before left there must not matter."""
    policy = tiny_policy()
    engine = eager(policy)
    for prompts, group_size, limit in ((PROMPTS, 3, 9), (PROMPTS[:1], 1, 1), (PROMPTS * 3, 2, 70), (PROMPTS[2:], 5, 2)):
        sampling = Sampling(max_new_tokens=limit, seed=limit)
        assert_same(
            engine.generate(prompts, group_size, sampling), native(policy).generate(prompts, group_size, sampling)
        )
    assert engine.generate([], 4, Sampling(max_new_tokens=3)) == []


def test_memory_too_small_for_all_rows_admits_them_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    from mathgrpo.rollout.cuda import places as pool

    policy = tiny_policy()
    sampling = Sampling(max_new_tokens=30, seed=1)
    expected = native(policy).generate(PROMPTS, 4, sampling)
    monkeypatch.setattr(pool, "_ROUNDING", 1)
    monkeypatch.setattr(pool.TokenPool, "_affordable", lambda self: 0)
    engine = eager(policy)
    assert_same(engine.generate(PROMPTS, 4, sampling), expected)
    assert engine._pool.capacity == 17 + 30 + 1, "one row and its prompt is the least that works"


def test_any_of_several_end_ids_ends_a_completion_and_none_runs_to_the_limit() -> None:
    policy = tiny_policy()
    free = native(policy).generate(PROMPTS, 2, Sampling(max_new_tokens=30, seed=1))
    others = {completion.ids[len(completion.ids) // 2] for completion in chain(*free[:2])}
    for ends in (tuple(sorted({1, *others})), ()):
        policy = replace(policy, eos_ids=ends)
        sampling = Sampling(max_new_tokens=30, seed=1)
        assert_same(eager(policy).generate(PROMPTS, 2, sampling), native(policy).generate(PROMPTS, 2, sampling))


def perturb(policy: Policy, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.device), alpha=scale)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_changed_in_place_are_seen_at_the_same_addresses(tied: bool) -> None:
    policy = tiny_policy("qwen3", tie_word_embeddings=tied)
    engine, greedy = eager(policy), SAMPLINGS["greedy"]
    before = engine.generate(PROMPTS, 1, greedy)
    fused = engine._view
    address = fused.layers[0].qkv[0].data_ptr()
    perturb(policy)
    after = engine.generate(PROMPTS, 1, greedy)
    assert_same(after, native(policy).generate(PROMPTS, 1, greedy))
    assert [g[0].ids for g in after] != [g[0].ids for g in before]
    assert engine._view is fused and fused.layers[0].qkv[0].data_ptr() == address


def test_an_adapter_is_seen() -> None:
    from mathgrpo.config.recipe import LoraSection
    from mathgrpo.models.lora import attach_adapter

    plain = tiny_policy()
    policy = replace(plain, model=attach_adapter(plain.model, LoraSection(r=4, alpha=8)).eval())
    engine, greedy = eager(policy), SAMPLINGS["greedy"]
    before = engine.generate(PROMPTS, 1, greedy)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    after = engine.generate(PROMPTS, 1, greedy)
    assert_same(after, native(policy).generate(PROMPTS, 1, greedy))
    assert [g[0].ids for g in after] != [g[0].ids for g in before]


def test_bfloat16_stays_within_its_rounding_of_the_autocast_forward() -> None:
    policy = tiny_policy(dtype=torch.bfloat16)
    assert trial_difference(eager(policy), policy) < 6e-2


def test_an_engine_must_pass_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    engine, obstacle = build_graph_engine(policy, triton=False, graphs=False)
    assert engine is not None and engine.reason == "eager steps, torch operations" and not obstacle
    assert trial_difference(engine, policy) < 1e-4
    real = qwen_view.effective_weight
    monkeypatch.setattr(qwen_view, "effective_weight", lambda module: real(module) * 1.1)
    engine, obstacle = build_graph_engine(policy, triton=False, graphs=False)
    assert engine is None and obstacle.startswith("CUDA graphs with torch operations failed their trial (off by")
    engine, obstacle = build_graph_engine(tiny_policy("gpt2"), graphs=False)
    assert engine is None and "GPT2LMHeadModel" in obstacle


@pytest.mark.parametrize("triton", [True, False])
def test_a_trial_that_loses_the_device_is_one_line_with_the_setting_that_avoids_it(
    triton: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other engine could be tried: everything asked of a lost device fails."""

    def lose(self: GraphEngine, *args: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")

    monkeypatch.setattr(GraphEngine, "generate", lose)
    words = r"^run\.engine=fast: .* lost the device \(CUDA error: an illegal .*\); .* --set run\.engine=plain$"
    with pytest.raises(UserError, match=words):
        build_graph_engine(tiny_policy(), triton=triton, graphs=False)


def test_without_triton_the_engine_says_so_and_uses_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    engine, _ = build_graph_engine(tiny_policy(), graphs=False)
    assert engine is not None
    assert engine.reason == "eager steps, torch operations; no Triton kernels: triton is not installed"


class BrokenCapture:
    """torch.cuda.graph in a capture that fails: its end raises, and its own stream stays the current one."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> None:
        torch.cuda.set_stream("the capture's")  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> NoReturn:
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_capture_that_fails_says_why_and_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = ["the caller's"]
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", BrokenCapture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    taken: list[int] = []

    def step() -> None:
        taken.append(len(taken))
        if len(taken) == 2:
            raise RuntimeError("cannot copy between CPU and CUDA tensors during CUDA graph capture")

    captured = graphs.StepGraphs(enabled=True)
    for _ in range(4):
        captured.run("shape", step)
    assert captured.error.startswith("cannot copy between CPU and CUDA tensors") and captured.num_captured == 0
    assert streams == ["the caller's", "the capture's", "the caller's"]
    assert len(taken) == 5, "one step each call, and the one that was captured in vain"


def test_a_policy_on_the_cpu_is_not_offered_graphs() -> None:
    assert "graphs" not in build_engine(tiny_policy(), compiled=False).reason


class NothingFromTheHost(TorchDispatchMode):
    """Fails on what a capture forbids: reading a device number, sizes that depend on data, numbers to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero"), name
        if name == "where":
            assert all(argument.dim() for argument in args), "torch would copy the number to the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_a_step_neither_waits_for_the_device_nor_brings_anything_from_the_host(kind: str) -> None:
    policy = tiny_policy("qwen3")
    engine = eager(policy)
    run, steps = engine._graphs.run, []

    def watched(shape: Any, step: Any) -> None:
        with NothingFromTheHost():
            run(shape, step)
        steps.append(shape)

    engine._graphs.run = watched
    engine.generate(PROMPTS, 2, SAMPLINGS[kind])
    assert steps
    with pytest.raises(AssertionError), NothingFromTheHost():
        torch.where(torch.ones(2) > 0, torch.ones(2), 0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("kind", SAMPLINGS)
def test_captured_steps_equal_eager_ones_and_the_cpu(triton: bool, kind: str) -> None:
    policy = tiny_policy("qwen3", device="cuda")
    captured, obstacle = build_graph_engine(policy, triton=triton)
    assert captured is not None, obstacle
    assert captured.reason == f"CUDA graphs, {'Triton kernels' if triton else 'torch operations'}"
    got = captured.generate(PROMPTS, 4, SAMPLINGS[kind])
    assert captured.num_captured > 0 and not captured.capture_error
    assert_same(got, eager(policy).generate(PROMPTS, 4, SAMPLINGS[kind]), atol=1e-4)
    assert_same(got, native(tiny_policy("qwen3")).generate(PROMPTS, 4, SAMPLINGS[kind]), atol=1e-4)


@pytest.mark.gpu
def test_graphs_outlive_optimizer_steps() -> None:
    policy = tiny_policy(device="cuda")
    engine, obstacle = build_graph_engine(policy)
    assert engine is not None, obstacle
    sampling = replace(SAMPLINGS["plain"], temperature=1.0)
    before = engine.generate(PROMPTS, 4, sampling)
    before = engine.generate(PROMPTS, 4, sampling)
    captured = engine.num_captured
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.05)
    policy.model(input_ids=torch.tensor([PROMPTS[1].ids], device="cuda")).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    after = engine.generate(PROMPTS, 4, sampling)
    assert after != before
    assert_same(after, eager(policy).generate(PROMPTS, 4, sampling), atol=1e-4)
    assert engine.num_captured >= captured > 0, "no graph was dropped"


@pytest.mark.gpu
def test_the_batch_shrinks_through_the_buckets() -> None:
    policy = tiny_policy(device="cuda")
    policy.model.lm_head.weight.data[1] *= 1.5
    engine, obstacle = build_graph_engine(policy)
    assert engine is not None, obstacle
    prompts = [replace(PROMPTS[i % 4], key=i) for i in range(16)]
    sampling = Sampling(max_new_tokens=200, seed=2)
    got = engine.generate(prompts, 8, sampling)
    assert len({len(c.ids) for c in chain(*got)}) > 10
    assert_same(got, eager(policy).generate(prompts, 8, sampling), atol=1e-4)
    assert engine.num_captured >= 4


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128])
def test_bfloat16_graphs_pass_their_trial_at_real_head_sizes(head_dim: int) -> None:
    policy = tiny_policy(
        "qwen2", device="cuda", dtype=torch.bfloat16, hidden_size=256, head_dim=head_dim, num_attention_heads=14
    )
    engine = build_engine(policy)
    assert engine.reason == "CUDA graphs, Triton kernels"
