"""Whole runs under the settings that save memory: the same weights, and resumed bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mathgrpo.training import Interrupted, train
from mathgrpo.training.resume import resumed_recipe
from training.test_loop import Quiet, material, metrics, recipe_of, weights  # noqa: F401

MODULES = {"fused_forward": "off"}
COPIES = {"compute_copy": "on"}


def test_recomputed_layers_train_the_same_weights(material: dict[str, Any]) -> None:  # noqa: F811
    runs = []
    for setting in ("off", "on"):
        recipe = recipe_of(
            material, grpo=MODULES, run={"name": f"recompute-{setting}"}, training={"gradient_checkpointing": setting}
        )
        quiet = Quiet()
        runs.append(weights(train(recipe, recipe_name="tiny", progress=quiet), 4))
        assert any("computed again in the backward pass" in line for line in quiet.said) == (setting == "on")
    assert all(torch.allclose(runs[0][name], runs[1][name], atol=1e-6) for name in runs[0])


def test_a_run_with_compute_copies_equals_autocasts_and_resumes_bit_for_bit(
    material: dict[str, Any],  # noqa: F811
) -> None:
    material["model"]["dtype"] = "bfloat16"
    material["rollout"]["engine"] = "generate"  # draws from the same matrices whether they are cast now or before
    plain = train(recipe_of(material, grpo=MODULES), recipe_name="tiny", progress=Quiet())
    whole = train(
        recipe_of(material, grpo=MODULES, optimizer=COPIES, run={"name": "copies"}), recipe_name="tiny",
        progress=Quiet(),
    )  # fmt: skip
    assert metrics(whole) == metrics(plain)
    recipe = recipe_of(material, grpo=MODULES, optimizer=COPIES, run={"name": "stopped"})
    with pytest.raises(Interrupted):
        train(recipe, recipe_name="tiny", progress=Quiet(signal_at="step 2"))
    folder = whole.parent / "stopped"
    resumed = train(resumed_recipe(folder, []), recipe_name="tiny", resume=folder, progress=Quiet())
    first, second, third = weights(plain, 4), weights(whole, 4), weights(resumed, 4)
    assert {tensor.dtype for tensor in second.values()} == {torch.float32}
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and torch.equal(tensor, third[name]), name
