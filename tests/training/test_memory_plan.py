"""The memory plan: near what is measured, the largest budget that fits, and one clear line when nothing does."""

from __future__ import annotations

import random
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fakes import tiny_model
from mathgrpo.config import Recipe
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection, ModelSection
from mathgrpo.errors import UserError
from mathgrpo.grpo import with_advantages
from mathgrpo.hardware.device_memory import device_bytes
from mathgrpo.models import load_policy
from mathgrpo.models.shape import ModelSizes, model_sizes, sizes_ahead
from mathgrpo.training.memory_plan import (
    MARGIN,
    MAX_BUDGET,
    SMALL_BUDGET,
    activation_bytes,
    logit_bytes,
    plan_memory,
    require_fit,
    require_room,
)
from mathgrpo.training.plan import memory_lines
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from mathgrpo.update import policy_update
from mathgrpo.update.layer_modes import recomputed_layers

GB = 10**9
# Qwen2.5-0.5B and 3B by their published configs; the weights' numbers are theirs.
QWEN_HALF = ModelSizes(494_032_768, 494_032_768, 357_826_560, 24, 896, 4864, 896, 128, 151_936)
QWEN_3B = ModelSizes(3_085_938_688, 3_085_938_688, 2_774_532_096, 36, 2048, 11008, 2048, 256, 151_936)


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, num_bytes: int) -> None:
        self.known.discard(key)
        self.live -= num_bytes


def groups(num_groups: int, group_size: int, prompt: int, new_tokens: int) -> list[RolloutGroup]:
    draw = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(6, 900) for _ in range(length))

    made = []
    for b in range(num_groups):
        completions = tuple(Completion(ids(new_tokens), (-1.0,) * new_tokens, "length") for _ in range(group_size))
        rewards = tuple(float(g % 2) for g in range(group_size))
        problem = Problem(question="q", answer="1")
        made.append(RolloutGroup(problem, Prompt(ids(prompt), b), completions, ("",) * group_size, rewards=rewards))
    return with_advantages(made, "group")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_is_0_95_to_1_35_times_the_measured_peak(dtype: Any, recompute: bool) -> None:
    group_size, prompt, new_tokens = 8, 100, 120
    policy = load_policy(ModelSection(path="starter", dtype=dtype), "cpu", train=True)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    machinery = Machinery(token_budget=100_000, fused_forward="off")
    with Peak() as peak, recomputed_layers(policy.model, recompute):
        stats = policy_update(
            policy, optimizer, groups(2, group_size, prompt, new_tokens), GrpoSection(), temperature=1.0,
            max_new_tokens=new_tokens, max_grad_norm=1.0, machinery=machinery,
        )  # fmt: skip
    assert stats.micro_batches == 1
    sizes, size = model_sizes(policy.model), policy.compute_dtype.itemsize
    assert sizes is not None
    keys = (group_size * (prompt + new_tokens) + prompt) / (prompt + group_size * new_tokens)
    # What an update adds to the weights: gradients, the matrices that autocast casts, activations, logits.
    estimate = 4 * sizes.trainable + (size * sizes.matrices if size < 4 else 0) + logit_bytes(sizes, size, "cpu")
    estimate += activation_bytes(sizes, size, keys, recompute=recompute) * stats.tokens
    assert 0.95 * peak.peak < estimate < 1.35 * peak.peak


def plan(
    sizes: ModelSizes, gigabytes: float | None, kind: str = "cuda", *, machinery: Any = None, **sections: Any
) -> Any:
    sections = {"rollout": {"prompts_per_step": 64, "group_size": 8, "max_new_tokens": 200}} | sections
    recipe = Recipe.model_validate(sections)
    device = None if gigabytes is None else int(gigabytes * GB)
    return plan_memory(
        sizes,
        recipe,
        compute_bytes=2,
        longest_prompt=200,
        device=device,
        kind=kind,
        machinery=Machinery(**machinery or {}),
    )


def test_sizes_are_those_of_the_model_also_without_memory(tmp_path: Path) -> None:
    model = tiny_model()
    sizes = model_sizes(model)
    # embedding 100 x 32 tied; a layer: q 32 x 32, k and v 16 x 32 each, o 32 x 32, three of 32 x 64
    assert sizes is not None and sizes.parameters == sizes.trainable == sum(p.numel() for p in model.parameters())
    assert sizes.matrices == 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)
    assert (sizes.layers, sizes.hidden, sizes.feed_forward, sizes.query_width, sizes.key_width) == (2, 32, 64, 32, 16)
    model.save_pretrained(tmp_path)
    assert sizes_ahead(ModelSection(path=str(tmp_path))) == sizes
    assert sizes_ahead(ModelSection(path=str(tmp_path / "none"))) is None
    with torch.device("meta"):
        assert model_sizes(tiny_model("gpt2")) is not None


def test_static_parts_of_half_a_billion_weights() -> None:
    """Float32 weights, gradients and two moments, 16 bytes a weight: 7.9 GB, and bfloat16 copies of the matrices."""
    memory = plan(QWEN_HALF, 141)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * 494_032_768
    # bfloat16 matrices for the rollout, with the head, and for the update
    assert memory.copies == 2 * (2 * 357_826_560 + 896 * 151_936) and memory.reference == 0
    assert plan(QWEN_HALF, 141, machinery={"compute_copy": "off"}).copies == 2 * (357_826_560 + 896 * 151_936)
    assert plan(QWEN_HALF, 141, "cpu").copies == 2 * 357_826_560
    assert plan(QWEN_HALF, 141, rollout={"vllm": {}}).copies == 2 * 357_826_560, "the update's alone"
    assert plan(QWEN_HALF, 141, grpo={"beta": 0.1}).reference == 2 * 494_032_768
    # 2 (K and V) x 24 layers x 128 x 2 bytes a token, 512 completions of 400 tokens
    assert memory.kv_cache == 2 * 24 * 128 * 2 * 512 * 400


def test_what_the_graph_engine_holds_through_the_update_is_counted_there() -> None:
    memory = plan(QWEN_HALF, 141)
    logits = 2 * 512 * 151_936 * 2
    assert memory.kept_cache == memory.kv_cache + logits
    assert memory.total == memory.resident + memory.kept_cache + memory.activations + memory.logits
    without = plan(QWEN_HALF, 141, machinery={"graphs": False})
    assert "held through" in memory_lines(memory)[1] and "held through" not in memory_lines(without)[1]
    assert without.kept_cache == 0 and plan(QWEN_HALF, 141, "cpu").kept_cache == 0
    # The pool takes a quarter of the device at most, and half of what is free: the rows that do not fit wait.
    long = {"prompts_per_step": 64, "group_size": 8, "max_new_tokens": 4000}
    assert plan(QWEN_HALF, 80, rollout=long).kept_cache == 20 * GB + logits
    small = plan(QWEN_HALF, 16, rollout=long, machinery={"max_rows": 512})
    assert small.kept_cache == (16 * GB - small.resident) // 2 + logits


def test_frozen_matrices_under_an_adapter_are_kept_once_more_in_the_compute_precision() -> None:
    ways = ({"recompute": kind, "token_budget": 8192, "max_rows": 512} for kind in ("off", "on"))
    off, on = (plan(QWEN_3B, 141, machinery=way, model={"lora": {}}) for way in ways)
    whole = plan(QWEN_3B, 141, machinery={"recompute": "off", "token_budget": 8192, "max_rows": 512})
    assert off.activations - whole.activations == 2 * QWEN_3B.matrices
    assert on.activations < off.activations - 2 * QWEN_3B.matrices, "one layer at a time"


def test_a_model_the_graph_engine_does_not_serve_leaves_nothing_behind() -> None:
    assert plan(replace(QWEN_HALF, matrices=0), 80).kept_cache == 0
    four_bit = replace(QWEN_HALF, quantized=QWEN_HALF.matrices)
    sizes = {"prompts_per_step": 64, "group_size": 8, "max_new_tokens": 200}
    assert plan(four_bit, 80, rollout=sizes, machinery={"dequantize": "off"}).kept_cache == 0
    assert plan(four_bit, 80, rollout=sizes).kept_cache > 0


def test_the_budget_is_the_largest_that_fits_and_layers_are_recomputed_only_where_it_would_be_small() -> None:
    large = plan(QWEN_HALF, 141)
    assert large.token_budget == MAX_BUDGET["cuda"] and not large.recompute and large.fits
    middle = plan(QWEN_HALF, 32)
    assert SMALL_BUDGET <= middle.token_budget < MAX_BUDGET["cuda"] and not middle.recompute
    room = (1 - MARGIN) * 32 * GB
    one_more = middle.activations / middle.token_budget
    assert middle.total <= room < middle.total + one_more + 1
    small = plan(QWEN_HALF, 20)
    assert small.recompute and small.fits and small.token_budget >= SMALL_BUDGET
    assert not plan(QWEN_HALF, 20, machinery={"recompute": "off"}).recompute
    assert plan(QWEN_HALF, 141, machinery={"recompute": "on"}).recompute
    assert plan(QWEN_HALF, 141, "cpu").token_budget == MAX_BUDGET["cpu"]
    assert plan(QWEN_HALF, None, "cpu").token_budget == MAX_BUDGET["cpu"]


def test_a_budget_by_number_is_kept_and_recomputed_only_if_it_needs_to() -> None:
    assert plan(QWEN_HALF, 141, machinery={"token_budget": 1000}).token_budget == 1000
    wide = plan(QWEN_HALF, 40, machinery={"token_budget": 30_000})
    assert wide.token_budget == 30_000 and wide.recompute and wide.fits


def test_what_cannot_fit_is_one_line_with_parts_and_remedy() -> None:
    recipe = Recipe()
    with pytest.raises(
        UserError, match=r"^model.path=big: needs about .* GB, the device has 24.0 GB \(.*optimizer 24"
    ) as e:
        require_fit(plan(QWEN_3B, 24), "big")
    assert "\n" not in str(e.value) and "use model.lora" in str(e.value)
    with pytest.raises(UserError, match=r"use model.lora, a smaller model or a larger device"):
        require_room(QWEN_3B, recipe, compute_bytes=2, device=24 * GB, kind="cuda")
    require_room(replace(QWEN_3B, trainable=0), recipe, compute_bytes=2, device=24 * GB, kind="cuda")
    with pytest.raises(UserError, match=r"lower rollout\.max_new_tokens"):
        require_fit(plan(QWEN_HALF, 16, rollout={"max_new_tokens": 60_000}), "big")
    # Too large a budget by number is no reason to refuse: it is halved when memory runs out.
    require_fit(plan(QWEN_HALF, 40, machinery={"token_budget": 10**6}), "big")
    require_fit(plan(QWEN_HALF, None), "unknown device")


def test_what_does_not_fit_decodes_in_several_turns_and_a_4bit_model_from_its_own_matrices() -> None:
    long = plan(QWEN_HALF, 80, rollout={"prompts_per_step": 512, "max_new_tokens": 4096})
    assert 16 < long.rows < 4096 and long.kv_cache <= (1 - MARGIN) * 80 * GB - long.resident < 2 * long.kv_cache
    assert f"{long.rows} completions at a time" in memory_lines(long)[1]
    # 2.8 GB that graphs hold of a rollout of 512 rows are too many beside the update, and fewer rows are not.
    all_rows, fewer = plan(QWEN_HALF, 16, machinery={"max_rows": 512}), plan(QWEN_HALF, 16)
    assert all_rows.is_hopeless and not fewer.is_hopeless and 0 < fewer.rows < 512
    assert plan(QWEN_HALF, 141).rows == 0
    four_bit = replace(QWEN_3B, quantized=QWEN_3B.matrices, trainable=30_000_000)
    roomy, tight = (plan(four_bit, gigabytes, model={"lora": {}}) for gigabytes in (80, 10))
    assert roomy.dequantize and roomy.rows == 0 and roomy.copies > 0
    assert not tight.dequantize and tight.copies == 0 and not tight.is_hopeless


@pytest.mark.parametrize("gigabytes", [16, 24, 40, 80, 141])
def test_the_plan_never_says_it_fits_when_its_sum_does_not(gigabytes: int) -> None:
    for sizes in (QWEN_HALF, QWEN_3B):
        memory = plan(sizes, gigabytes)
        assert memory.fits == (memory.total <= (1 - MARGIN) * gigabytes * GB)
        first, second = memory_lines(memory)
        assert first.startswith(
            f"memory      at most about {memory.total / GB:.1f} GB of the device's {gigabytes}.0 GB"
        )
        assert f"{memory.token_budget:,} tokens a micro-batch" in second
        assert ("held through the update; " in second) == bool(memory.kept_cache)
        assert ("again in the backward" in second) == memory.recompute


def test_the_machines_memory_is_known_here() -> None:
    total = device_bytes("cpu")
    assert total is not None and 10**8 < total < 10**14
    assert sizes_ahead(ModelSection(path="starter")) is not None
