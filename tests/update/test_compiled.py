"""Compiled parts of layers: the same gradient, only inside the block, and only where it pays."""

from __future__ import annotations

import shutil

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.machinery import Machinery
from mathgrpo.update.layer_modes import REPAID_AFTER, compile_pays, compiled_parts, parts_of
from update.grpo_cases import largest_difference, make_groups, update


def test_auto_compiles_long_runs_on_cuda_alone() -> None:
    auto = Machinery()
    assert compile_pays(auto, "cuda", REPAID_AFTER) and not compile_pays(auto, "cuda", REPAID_AFTER - 1)
    assert not compile_pays(auto, "cpu", 10 * REPAID_AFTER)
    assert compile_pays(Machinery(compile="on"), "cpu", 1)
    assert not compile_pays(Machinery(compile="off"), "cuda", 10 * REPAID_AFTER)


@pytest.mark.parametrize(("architecture", "in_a_layer"), [("qwen2", 3), ("qwen3", 5), ("llama", 3), ("gpt2", 3)])
def test_parts_are_the_feed_forward_and_the_norms(architecture: str, in_a_layer: int) -> None:
    assert len(parts_of(tiny_model(architecture))) == 2 * in_a_layer


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_update_has_the_same_gradient() -> None:
    model, groups = tiny_model(), make_groups()
    _, (plain,) = update(model, groups, fused_forward="off")
    with compiled_parts(model, True):
        for _ in range(2):
            _, (compiled,) = update(model, groups, fused_forward="off")
    assert largest_difference(compiled, plain) < 2e-5
    counters = torch._dynamo.utils.counters["stats"]
    assert counters["unique_graphs"] > 0
    before = dict(counters)
    update(model, make_groups(num_groups=5), fused_forward="off")
    assert dict(counters) == before and all(p._compiled_call_impl is None for p in parts_of(model))
