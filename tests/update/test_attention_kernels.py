"""The kernels of the packed attention compute the same as every completion attending alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mathgrpo.hardware.cuda_care import uploaded
from mathgrpo.update.attention import varlen as attention_varlen
from mathgrpo.update.attention.packed import AttentionKernel, packed_layout
from mathgrpo.update.pack import bucket

HEADS, KEY_HEADS, SIZE = 4, 2, 16
Spans = tuple[list[tuple[int, int]], list[tuple[int, int, int]], int]


def spans(shape: list[tuple[int, list[int]]], padding: int = 5) -> Spans:
    """Return (prompts, completions, rows) of groups given as (prompt length, completion lengths)."""
    prompts, completions, row = [], [], 0
    for index, (length, own) in enumerate(shape):
        prompts.append((row, length))
        row += length
        for completion in own:
            completions.append((row, completion, index))
            row += completion
    return prompts, completions, row + padding


RAGGED = spans([(5, [4, 0, 1]), (1, [7]), (3, [2, 6, 3, 1])])
WIDE = spans([(150, [90, 0, 200]), (20, [30, 1, 5]), (300, [140, 17])], padding=11)
FLUSH = spans([(128, [128, 128])], padding=0)
CASES = {"ragged": RAGGED, "wide": WIDE, "flush": FLUSH}


def states(num_rows: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(num_rows, heads, SIZE, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def alone(
    case: Spans, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return (rows that count, their outputs): softmax attention of every prompt and completion by itself."""
    prompts, completions, _ = case
    rows, outputs = [], []
    for start, length, prefix in [
        *((s, n, range(0)) for s, n in prompts),
        *((s, n, range(prompts[p][0], sum(prompts[p]))) for s, n, p in completions),
    ]:
        for row in range(start, start + length):
            seen = torch.tensor([*prefix, *range(start, row + 1)][-(window or 0) :], device=query.device)
            keys, values = (t[seen].repeat_interleave(HEADS // KEY_HEADS, dim=1) for t in (key, value))
            weights = (torch.einsum("hd,khd->hk", query[row], keys) * scaling).softmax(-1)
            rows.append(row)
            outputs.append(torch.einsum("hk,khd->hd", weights, values))
    return torch.tensor(rows, device=query.device), torch.stack(outputs)


def documented_varlen(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor,
    longest_query: int, longest_key: int, scaling: float | None, window: int | None = None,
) -> Tensor:  # fmt: skip
    """Stand in for varlen_attn(window_size=(window - 1, 0)): query i of q sees keys up to i + k - q of its segment."""
    assert query_ends.dtype == key_ends.dtype == torch.int32 and query_ends[0] == key_ends[0] == 0
    assert query_ends[-1] == len(query) and key_ends[-1] == len(key) == len(value)
    outputs = []
    for segment in range(len(query_ends) - 1):
        q = query[query_ends[segment] : query_ends[segment + 1]]
        k, v = (t[key_ends[segment] : key_ends[segment + 1]] for t in (key, value))
        assert len(q) <= longest_query and len(k) <= longest_key
        k, v = (t.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (scaling or SIZE**-0.5)
        age = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
        seen = (age >= 0) & (age < (window or len(k)))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v))
    return torch.cat(outputs)


def attend(
    case: Spans, kernel: AttentionKernel, inputs: list[Tensor], scaling: float, window: int | None = None
) -> Tensor:
    layout = packed_layout(*case, bucket, kernel)
    assert layout.longest == max(case[0][p][1] + n for _, n, p in case[1])
    return uploaded(layout, inputs[0].device).attend(*inputs, scaling, window)


@pytest.fixture
def varlen_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_varlen, "causal_varlen", documented_varlen)


WINDOWS = (("ragged", 1), ("ragged", 4), ("ragged", 6), ("wide", 100), ("flush", 128), ("flush", 200))
"""With edges in the prompt, where the completion begins, and in the completion."""


@pytest.mark.parametrize(("name", "window"), [*((name, None) for name in CASES), *WINDOWS])
@pytest.mark.parametrize("kernel", ["sdpa", "varlen"])
def test_each_kernel_equals_completions_alone(name: str, window: Any, kernel: Any, varlen_on_cpu: None) -> None:
    case, inputs = CASES[name], [tensor.detach() for tensor in states(CASES[name][2])]
    rows, expected = alone(case, *inputs, 0.3, window)
    output = attend(case, kernel, inputs, 0.3, window)
    assert output.shape == inputs[0].shape and bool(output.isfinite().all())
    torch.testing.assert_close(output[rows], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kernel", ["sdpa", "varlen"])
def test_the_gradient_equals_completions_alone(kernel: Any, window: Any, varlen_on_cpu: None) -> None:
    inputs = states(RAGGED[2])
    rows, expected = alone(RAGGED, *inputs, 0.3, window)
    seed = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, inputs, seed)
    given = torch.autograd.grad(attend(RAGGED, kernel, inputs, 0.3, window)[rows], inputs, seed)
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("told", [True, False])
def test_grouped_heads_are_handed_on_as_they_are(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 takes no enable_gqa; from 2.12 on grouped heads are refused without it."""
    from torch.nn.attention import varlen

    seen: list[tuple[int, ...]] = []

    def newer(*tensors: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool = False) -> Tensor:
        assert (scale, window_size, enable_gqa) == (0.3, (-1, 0), True)
        seen.append(tuple(tensors[1].shape))
        return tensors[0]

    def older(*tensors: Any, scale: float, window_size: tuple[int, int]) -> Tensor:
        return newer(*tensors, scale=scale, window_size=window_size, enable_gqa=True)

    monkeypatch.setattr(varlen, "varlen_attn", newer if told else older)
    query, key, value = (t.detach() for t in states(6))
    ends = torch.tensor([0, 6], dtype=torch.int32)
    assert attention_varlen.causal_varlen(query, key, value, ends, ends, 6, 6, 0.3) is query
    assert seen == [(6, KEY_HEADS, SIZE)]


def test_the_kernel_counts_the_keys_before_a_query_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import varlen

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, *_, window_size, **__: seen.append(window_size) or q)
    query, key, value = (t.detach() for t in states(6))
    ends = torch.tensor([0, 6], dtype=torch.int32)
    for window in (None, 1, 4):
        attention_varlen.causal_varlen(query, key, value, ends, ends, 6, 6, 0.3, window)
    assert seen == [(-1, 0), (0, 0), (3, 0)]


def test_shared_keys_sum_their_gradients_in_float32() -> None:
    """64 gradients of 1 + 1/128 add up to 64.5; a running sum in bfloat16 is 64."""
    key = torch.zeros(3, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    gathered = attention_varlen._SharedRows.apply(key, torch.ones(64, dtype=torch.long))
    gathered.backward(torch.full_like(gathered, 1 + 1 / 128))
    assert key.grad is not None and key.grad.dtype == torch.bfloat16
    assert key.grad.flatten().tolist() == [0.0, 64.5, 0.0]


def test_the_segments_are_those_of_the_example() -> None:
    made = packed_layout([(0, 3)], [(3, 2, 0), (5, 1, 0)], 6, bucket, "varlen")
    assert isinstance(made, attention_varlen.VarlenSegments)
    assert made.query_ends.tolist() == [0, 3, 5, 6] and made.key_ends.tolist() == [0, 3, 8, 12]
    assert made.key_rows.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5]


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "window"), [*((name, None) for name in CASES), *WINDOWS])
def test_kernels_agree_on_the_gpu(name: str, window: Any) -> None:
    case = CASES[name]
    inputs = states(case[2], torch.bfloat16, "cuda")
    counted = torch.tensor([r for s, n, *_ in (*case[0], *case[1]) for r in range(s, s + n)], device="cuda")
    seed = torch.randn(len(counted), HEADS, SIZE, device="cuda", dtype=torch.bfloat16)
    results = []
    for which in ("sdpa", "varlen"):
        output = attend(case, which, inputs, 0.3, window)
        assert bool(output.isfinite().all())
        results.append([output[counted], *torch.autograd.grad(output[counted], inputs, seed)])
    exact = [t.detach().double().requires_grad_() for t in inputs]
    output = attend(case, "sdpa", exact, 0.3, window)[counted]
    wanted = [output, *torch.autograd.grad(output, exact, seed.double())]
    for plain, fast, right in zip(*results, wanted, strict=True):
        error, baseline = ((t.double() - right).norm() / right.norm() for t in (fast, plain))
        assert error < 1e-2 and error < 3 * baseline + 1e-3
