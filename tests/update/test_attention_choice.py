"""The choice among attention kernels: only those that compute what sdpa does, the fastest of them, with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.errors import UserError
from mathgrpo.update.attention import kernel_choice as attention_choice
from mathgrpo.update.attention import varlen as attention_varlen
from mathgrpo.update.attention.kernel_choice import AttentionChoice, Trial, choose_attention
from mathgrpo.update.attention.packed import AttentionKernel, PackedLayout, packed_layout
from mathgrpo.update.pack import bucket
from update.grpo_cases import TinyPolicy, largest_difference, make_groups, update
from update.test_attention_kernels import RAGGED, documented_varlen

NUM_ROWS = RAGGED[2] - 5


def layout_of(kernel: AttentionKernel) -> tuple[PackedLayout, int]:
    return packed_layout(*RAGGED, bucket, kernel), NUM_ROWS


@dataclass
class CudaPolicy(TinyPolicy):
    """A policy that says it is on a GPU; nothing here computes on its device."""

    device: str = "cuda"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    attention_choice._chosen.clear()
    yield
    attention_choice._chosen.clear()


def choose(asked: Any, policy: Any = None) -> AttentionChoice:
    return choose_attention(policy or CudaPolicy(tiny_model()), asked, layout_of)


def test_a_cpu_has_one_kernel_and_says_so_when_asked_for_another() -> None:
    policy = TinyPolicy(tiny_model())
    assert choose("auto", policy) == choose("sdpa", policy) == AttentionChoice("sdpa", "")
    assert choose("varlen", policy) == ("sdpa", "update attention sdpa (varlen not used: it needs CUDA)")


def test_an_update_that_falls_back_says_so_and_has_the_same_gradient() -> None:
    stats, (gradient,) = update(tiny_model(), make_groups(), attention="varlen")
    assert stats.notes == ("update attention sdpa (varlen not used: it needs CUDA)",)
    assert largest_difference(gradient, update(tiny_model(), make_groups(), fused_forward="off")[1][0]) == 0.0


def seconds_by(kernel_seconds: dict[str, float]) -> Any:
    def seconds(trial: Trial, layout: PackedLayout) -> float:
        return kernel_seconds["sdpa" if layout is trial.plain else type(layout).__name__]

    return seconds


def test_auto_takes_the_faster_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, rows = layout_of("sdpa")
    monkeypatch.setattr(attention_choice, "varlen_obstacle", lambda *_: "")
    monkeypatch.setattr(attention_varlen, "causal_varlen", documented_varlen)
    device, shape = torch.device("cpu"), (4, 2, 16)

    def fastest(times: dict[str, float]) -> AttentionChoice:
        monkeypatch.setattr(Trial, "seconds", seconds_by(times))
        return attention_choice._varlen_or_sdpa(device, torch.float32, shape, layout_of, named=False)

    fast = fastest({"sdpa": 0.002, "VarlenSegments": 0.001})
    assert fast.kernel == "varlen" and "varlen 1.00 ms a layer, sdpa 2.00 ms" in fast.reason
    assert fastest({"sdpa": 0.001, "VarlenSegments": 0.002}).kernel == "sdpa"
    assert Trial(shape, device, torch.float32, plain, rows).obstacle(plain) == ""


def test_a_kernel_that_differs_or_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_choice, "varlen_obstacle", lambda *_: "")
    device, shape = torch.device("cpu"), (4, 2, 16)

    def upper_left(query: Any, key: Any, value: Any, query_ends: Any, key_ends: Any, *rest: Any) -> torch.Tensor:
        """The mask aligned to the other corner: completions would see only the start of their prompt."""
        ends = zip(query_ends[:-1], query_ends[1:], key_ends[:-1], key_ends[1:], strict=True)
        keys = torch.cat([torch.arange(k0, k0 + q1 - q0) for q0, q1, k0, _ in ends])
        return documented_varlen(query, key[keys], value[keys], query_ends, query_ends, *rest)

    def nan(query: Any, key: Any, value: Any, *_: Any) -> torch.Tensor:
        return (query + key.sum() + value.sum()) * float("nan")

    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image\nfor this device")

    def choice_with(kernel: Any, named: bool) -> AttentionChoice:
        monkeypatch.setattr(attention_varlen, "causal_varlen", kernel)
        return attention_choice._varlen_or_sdpa(device, torch.float32, shape, layout_of, named=named)

    for named in (True, False):
        assert choice_with(documented_varlen, True).kernel == "varlen"
        for wrong, reason in ((upper_left, "it differs from sdpa by"), (nan, "differs from sdpa by nan"),
                              (broken, "RuntimeError: no kernel image")):  # fmt: skip
            choice = choice_with(wrong, named)
            assert choice.kernel == "sdpa" and reason in choice.reason and "\n" not in choice.reason


def test_a_lack_of_memory_is_not_held_against_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(attention_varlen, "causal_varlen", full)
    plain, rows = layout_of("sdpa")
    with pytest.raises(torch.OutOfMemoryError):
        Trial((4, 2, 16), torch.device("cpu"), torch.float32, plain, rows).obstacle(layout_of("varlen")[0])


def test_a_kernel_that_loses_the_device_is_named_with_the_one_that_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose(*_: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(attention_varlen, "causal_varlen", lose)
    plain, rows = layout_of("sdpa")
    trial = Trial((4, 2, 16), torch.device("cpu"), torch.float32, plain, rows)
    with pytest.raises(UserError, match=r"^update attention varlen: .* lost the device .* --set run.engine=plain$"):
        trial.obstacle(layout_of("varlen")[0])


def test_the_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    named_ones: list[bool] = []

    def made(*_: Any, named: bool, **__: Any) -> AttentionChoice:
        named_ones.append(named)
        return AttentionChoice("sdpa", "")

    monkeypatch.setattr(attention_choice, "_varlen_or_sdpa", made)
    for _ in range(2):
        choose("auto")
        choose("varlen")
    assert named_ones == [False, True]


@pytest.mark.gpu
def test_the_updates_gradient_is_the_same_with_every_kernel_on_the_gpu() -> None:
    @dataclass
    class GpuPolicy(TinyPolicy):
        device: str = "cuda"
        compute_dtype: torch.dtype = torch.bfloat16

        def autocast(self) -> Any:
            return torch.autocast("cuda", dtype=torch.bfloat16)

    from mathgrpo.update import policy_update
    from update.grpo_cases import MAX_NEW_TOKENS, RecordingSGD

    gradients = {}
    for kernel in ("sdpa", "varlen"):
        model = tiny_model(hidden_size=64, head_dim=16).cuda()
        optimizer = RecordingSGD(model)
        stats = policy_update(
            GpuPolicy(model), optimizer, make_groups(), GrpoSection(), temperature=1.0,
            max_new_tokens=MAX_NEW_TOKENS, max_grad_norm=1e9, machinery=Machinery(attention=kernel),
        )  # fmt: skip
        assert not any("not used" in note for note in stats.notes), stats.notes
        gradients[kernel] = optimizer.gradients[0]
    assert largest_difference(gradients["varlen"], gradients["sdpa"]) < 0.05
