"""The Triton kernels against their torch form: in Triton's interpreter on a CPU, compiled on a CUDA device."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.models import policy_from
from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda.graph_engine import GraphEngine
from mathgrpo.rollout.cuda.kernels import Reach, TorchKernels
from mathgrpo.rollout.cuda.places import NEW, Places, PlaceTable, Row
from mathgrpo.rollout.engine import NativeEngine
from mathgrpo.rollout.sampling import row_keys
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.types import Prompt, Sampling


def version_of(package: Any) -> tuple[int, int]:
    major, minor = package.__version__.split(".")[:2]
    return int(major), int(minor)


triton = pytest.importorskip("triton", reason="triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SHORT = torch.float16 if INTERPRETED else torch.bfloat16
"""The interpreter multiplies the bits of bfloat16 matrices as integers (Triton 3.7), so it is given float16."""
pytestmark = pytest.mark.skipif(
    (DEVICE == "cpu") != INTERPRETED, reason="Triton needs a CUDA device, or its interpreter (TRITON_INTERPRET=1)"
)

needs_loops = pytest.mark.skipif(
    INTERPRETED and version_of(triton) < (3, 7) and version_of(numpy) >= (2, 4),
    reason="the interpreter of Triton before 3.7 cannot loop to a computed bound under numpy 2.4 or newer",
)


def triton_kernels() -> TorchKernels:
    from mathgrpo.rollout.cuda.triton_layers import TritonKernels

    return TritonKernels()


@pytest.fixture
def unsplit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One program for each range: the interpreter runs them one after another."""
    from mathgrpo.rollout.cuda import triton_attention

    monkeypatch.setattr(triton_attention, "_PROGRAMS", 1)


def loaded(
    groups: tuple[tuple[int, int], ...], ages: list[int], num_places: int, tile_rows: int, limit: int = 50
) -> Places:
    """Return places for groups of (rows, prompt length), each prompt followed in memory by its rows' slots."""
    rows, token = [], 1
    for prompt, (count, length) in enumerate(groups):
        start, token = token, token + length
        for _ in range(count):
            rows.append(Row(len(rows), 0, token, prompt, start, length, limit * len(rows)))
            token += limit
    table = PlaceTable((3, 9), torch.device(DEVICE))
    table.reserve(limit * num_places, limit)
    table.load(rows, [NEW] * len(rows), num_places, tile_rows)
    places = table.view(num_places)
    keys = row_keys(7, list(range(num_places)), [1] * num_places).to(DEVICE)
    places.keys.copy_(keys)
    places.ages[: len(rows)] = torch.tensor(ages, device=DEVICE)
    return places


def attention_of(
    kernels: TorchKernels, places: Places, heads: int, kv: int, dim: int, dtype: torch.dtype
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads + dim)
    q = torch.randn(len(places.tokens), heads, dim, generator=generator).to(DEVICE, dtype)
    keys, values = torch.randn(2, kv, 700, dim, generator=generator).to(DEVICE, dtype)
    model = tiny_model(num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim).to(DEVICE)
    plan = kernels.plan(QwenView(model, dtype, 1024), places, Reach(128, 64))
    return kernels.attend(q, keys, values, places, plan)


GROUPS = ((3, 70), (1, 5), (2, 33))
AGES = [1, 40, 7, 50, 33, 2]


@needs_loops
@pytest.mark.parametrize(
    ("heads", "kv", "dim", "dtype", "programs"),
    [
        (2, 1, 64, torch.float32, 1),
        (7, 1, 64, SHORT, 1),
        (8, 1, 24, torch.float32, 16),
        (2, 2, 128, torch.float32, 1),
        (3, 3, 8, torch.float32, 1),
    ],
)
def test_attention_equals_the_plain_one(
    heads: int, kv: int, dim: int, dtype: torch.dtype, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged prompts and completions, groups of 3, 1 and 2 rows, tiles of 2 rows, two empty places; split and not."""
    from mathgrpo.rollout.cuda import triton_attention

    monkeypatch.setattr(triton_attention, "_PROGRAMS", programs)
    places = loaded(GROUPS, AGES, 8, tile_rows=2)
    expected = attention_of(TorchKernels(), places, heads, kv, dim, dtype)
    got = attention_of(triton_kernels(), places, heads, kv, dim, dtype)
    assert got.dtype == dtype and got.isfinite().all()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@needs_loops
def test_attention_reads_only_its_own_tokens(unsplit: None) -> None:
    """Whatever lies elsewhere in the pool, NaN included, changes nothing."""
    places = loaded(((2, 6), (1, 3)), [4, 1, 9], 4, tile_rows=8, limit=12)
    kernels: Any = triton_kernels()
    keys, values = torch.randn(2, 1, 60, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    q = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    from mathgrpo.rollout.cuda.triton_attention import attend, workspace

    before = attend(q, keys, values, places, workspace(4, 2, 1, 16, torch.device(DEVICE)))
    seen = torch.zeros(60, dtype=torch.bool)
    seen[0] = True  # the dummy token, which the empty place reads
    for i, age in enumerate((4, 1, 9)):
        for start, length in ((places.prompt_starts[i], places.prompt_lengths[i]), (places.slots[i], age)):
            seen[int(start) : int(start) + int(length)] = True
    keys[:, ~seen], values[:, ~seen] = torch.nan, torch.nan
    after = attend(q, keys, values, places, workspace(4, 2, 1, 16, torch.device(DEVICE)))
    assert kernels.fixed_reach is False and int(seen.sum()) < 60 and torch.equal(before, after)


@pytest.mark.parametrize("vocab", [5, 100, 2500])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_the_sampler_draws_the_cpus_tokens(vocab: int, temperature: float) -> None:
    """Same tokens, log-probabilities, ends and ages as in torch, with impossible tokens, ended rows and reordering."""
    generator = torch.Generator().manual_seed(vocab)
    logits = (3 * torch.randn(4, vocab, generator=generator)).to(
        DEVICE, torch.bfloat16 if vocab == 100 else torch.float32
    )
    logits[:, 1::3] = -torch.inf
    rows, who = torch.tensor([2, 0, 1, 3], device=DEVICE), torch.tensor([3, 1, 0, 2], device=DEVICE)
    sampling = Sampling(max_new_tokens=50, temperature=temperature)
    states = []
    for kernels in (TorchKernels(), triton_kernels()):
        places = loaded(((4, 5),), [0, 12, 49, 20], 4, tile_rows=8)
        places.done[1] = 1
        for _ in range(2):
            kernels.sample(logits, rows, places, who, sampling)
        states.append(places)
    expected, got = states
    for field in ("tokens", "ages", "done"):
        assert torch.equal(getattr(got, field), getattr(expected, field)), field
    assert torch.equal(got.ids[1:], expected.ids[1:])
    torch.testing.assert_close(got.logprobs[1:], expected.logprobs[1:], atol=2e-6, rtol=1e-6)
    assert got.ages[1] == 12 and got.ages[2] == 50 and got.done[2] == 1


def test_the_sampler_draws_from_the_softmax() -> None:
    """Chi-square at 5 tokens, one of them impossible."""
    draws = 128
    probabilities = torch.tensor([0.05, 0.3, 0.0, 0.4, 0.25])
    logits = probabilities.log().to(DEVICE)[None]
    places = loaded(((draws, 1),), [0] * draws, draws, tile_rows=8, limit=1)
    zeros = torch.zeros(draws, dtype=torch.int64, device=DEVICE)
    triton_kernels().sample(logits, zeros, places, torch.arange(draws, device=DEVICE), Sampling(max_new_tokens=1))
    counts = places.tokens.bincount(minlength=5).cpu()
    possible = probabilities > 0
    expected = draws * probabilities[possible]
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    assert counts[2] == 0 and statistic < 16.3, "the 0.999 quantile of chi-square with 3 degrees of freedom"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@torch.inference_mode()
def test_small_operations_equal_their_torch_form(architecture: str, dtype: torch.dtype) -> None:
    model = tiny_model(architecture, hidden_size=24, head_dim=12).to(DEVICE)
    if architecture == "qwen3":
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.data.uniform_(0.5, 2.0)
            layer.self_attn.k_norm.weight.data.uniform_(0.5, 2.0)
    fused = QwenView(model, dtype, 1024)
    layer = fused.layers[0]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 24, generator=generator).to(DEVICE)
    delta = torch.randn(4, 24, generator=generator).to(DEVICE, dtype)
    gate_up = torch.randn(4, 128, generator=generator).to(DEVICE, dtype)
    qkv = torch.randn(4, 8 * 12, generator=generator).to(DEVICE, dtype)
    results = []
    for kernels in (TorchKernels(), triton_kernels()):
        places = loaded(((2, 6), (1, 3)), [4, 1, 9], 4, tile_rows=8, limit=12)
        places.done[1] = 1
        pool = torch.zeros(2, 2, 60, 12, device=DEVICE, dtype=dtype)
        q = kernels.rotate(qkv, layer.head_norm, fused, pool[0], pool[1], places)
        pool[:, :, 0] = 0  # the dummy: two rows write it, in any order
        added = kernels.add_norm(x.clone(), delta, layer.mlp_norm, 1e-6, dtype)
        results.append((q, pool, kernels.norm(x, layer.mlp_norm, 1e-6, dtype), *added, kernels.gate(gate_up)))
    tolerance = 2e-6 if dtype == torch.float32 else 1.6e-2
    for got, expected in zip(results[1], results[0], strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    assert int((results[1][1].abs().sum((0, 1, 3)) > 0).sum()) == 2, (
        "rows 0 and 2 wrote; the ended and the empty did not"
    )


@needs_loops
def test_a_whole_rollout_in_triton_equals_the_native_engines(unsplit: None) -> None:
    model = tiny_model("qwen3", seed=2, num_hidden_layers=1, num_key_value_heads=1)
    policy = policy_from(model.to(DEVICE), tiny_tokenizer(), device=DEVICE, dtype=torch.float32, name="tiny")
    prompts = [Prompt(ids=(7, 30, 12), key=1), Prompt(ids=(50,), key=2)]
    sampling = Sampling(max_new_tokens=4, seed=5)
    got = GraphEngine(policy, triton_kernels(), graphs=False).generate(prompts, 2, sampling)
    expected = NativeEngine(policy, fused_decoder(policy)).generate(prompts, 2, sampling)
    for mine, theirs in zip((c for g in got for c in g), (c for g in expected for c in g), strict=True):
        assert mine.ids == theirs.ids
        torch.testing.assert_close(torch.tensor(mine.logprobs), torch.tensor(theirs.logprobs), atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_every_kernel_compiles_for_an_accelerator(tmp_path: Path) -> None:
    """Down to machine code for compute capability 9.0 and 8.0, without a device."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "compiled"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_vocabulary_is_sampled_as_on_the_cpu(dtype: torch.dtype) -> None:
    rows, vocab = 256, 151_936
    logits = (2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0))).to(DEVICE, dtype)
    places = loaded(((rows, 1),), [0] * rows, rows, tile_rows=8, limit=1)
    reference = replace(
        places, **{name: getattr(places, name).clone() for name in ("tokens", "ages", "done", "ids", "logprobs")}
    )
    number = torch.arange(rows, device=DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    triton_kernels().sample(logits, number, places, number, Sampling(max_new_tokens=1))
    assert torch.cuda.max_memory_allocated() - before < logits.nbytes // 20, "no second copy of the logits"
    TorchKernels().sample(logits, number, reference, number, Sampling(max_new_tokens=1))
    assert int((places.tokens == reference.tokens).sum()) >= rows - 1, "a draw within rounding of a border may differ"
    same = places.tokens == reference.tokens
    torch.testing.assert_close(
        places.logprobs[1:][:rows][same], reference.logprobs[1:][:rows][same], atol=1e-5, rtol=1e-5
    )
