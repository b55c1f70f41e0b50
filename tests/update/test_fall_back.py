"""A fast way to compute that fails in the middle of a run: the step is the plain one's, whole, and so are all after."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.machinery import FAST
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.update import Lesson, Updater, UpdateStats, build_reference
from mathgrpo.update.attention import packed
from mathgrpo.update.fused.fused_forward import FusedForward
from mathgrpo.update.pack import Piece
from update.grpo_cases import RecordingSGD, TinyPolicy, largest_difference, make_groups, update

STEPS, FAILING = 4, 2


def steps(
    architecture: str, monkeypatch: pytest.MonkeyPatch, damage: Any = None, *, beta: float = 0.0, parts: Any = ()
) -> tuple[list[UpdateStats], list[dict[str, torch.Tensor]]]:
    """Return the stats and gradients of STEPS updates; after FAILING the second call gives damage(output)."""
    model = tiny_model(architecture)
    policy, optimizer = TinyPolicy(model), RecordingSGD(model, lr=0.01)
    updater = Updater(policy, optimizer, reference=build_reference(policy, beta), machinery=FAST)
    lesson = Lesson(GrpoSection(beta=beta, updates_per_rollout=max(1, len(parts))), 1.0, 9, 1e9, parts)
    stats = []
    for number in range(STEPS):
        if number == FAILING and damage is not None:
            fail_in_the_second_call(monkeypatch, damage)
        stats.append(updater.update(make_groups(seed=number), lesson, token_budget=40))
    monkeypatch.undo()
    return stats, optimizer.gradients


def fail_in_the_second_call(monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    calls: list[int] = []

    def damaged(forward: Any) -> Any:
        def replaced(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            output = forward(*args, **kwargs)
            return output if len(calls) < 2 else damage(output)

        return replaced

    monkeypatch.setattr(packed.PaddedRows, "attend", damaged(packed.PaddedRows.attend))
    monkeypatch.setattr(FusedForward, "hidden", damaged(FusedForward.hidden))


def raises(output: Any) -> Any:
    raise NotImplementedError("a kernel of this size")


def overflows(output: Any) -> Any:
    return output * float("inf")


PARTS = [[Piece(0, (0, 1)), Piece(1, (0, 1, 2, 3))], [Piece(0, (2, 3)), Piece(2, (0, 1, 2, 3))]]


@pytest.mark.parametrize(("damage", "said"), [(raises, "NotImplementedError: a kernel"), (overflows, "not finite")])
@pytest.mark.parametrize(("architecture", "way"), [("gpt2", "packed attention"), ("qwen2", "fused forward pass")])
def test_the_step_is_whole_and_plain_and_so_are_those_after_it(
    architecture: str, way: str, damage: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, gradients = steps(architecture, monkeypatch, damage, beta=0.1)
    _, expected = steps(architecture, monkeypatch, beta=0.1)
    assert len(gradients) == STEPS
    for one, other in zip(gradients, expected, strict=True):
        assert largest_difference(one, other) < 1e-4
    assert [stats.layout for stats in found] == ["shared"] * FAILING + ["plain"] * (STEPS - FAILING)
    (note,) = found[FAILING].notes
    assert way in note and said in note and found[-1].notes == (note,) and found[0].notes == ()


@pytest.mark.parametrize("damage", [raises, overflows])
def test_old_log_probabilities_are_the_plain_passes_too(damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, gradients = steps("qwen2", monkeypatch, damage, parts=PARTS)
    _, expected = steps("qwen2", monkeypatch, parts=PARTS)
    assert found[FAILING].layout == "plain" and len(gradients) == STEPS * len(PARTS)
    assert max(largest_difference(one, other) for one, other in zip(gradients, expected, strict=True)) < 1e-4


def test_what_the_plain_passes_cannot_do_either_is_raised_as_theirs() -> None:
    model = tiny_model("gpt2")
    update(model, make_groups())

    def fail(*_: Any) -> None:
        raise RuntimeError("the user's own module")

    model.transformer.h[0].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="the user's own module"):
        update(model, make_groups())
