"""Whole runs under the settings that save memory: the same weights, and resumed bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mathgrpo.config.machinery import PLAIN, Choice, Machinery
from mathgrpo.training import Interrupted, train
from mathgrpo.training.train_recipe import resumed_recipe
from training.test_loop import Quiet, metrics, recipe_of, weights


def test_recomputed_layers_train_the_same_weights(material: dict[str, Any]) -> None:
    runs = []
    choices: tuple[Choice, ...] = ("off", "on")
    for setting in choices:
        recipe = recipe_of(material, run={"name": f"recompute-{setting}"})
        quiet, machinery = Quiet(), Machinery(recompute=setting, fused_forward="off")
        runs.append(weights(train(recipe, recipe_name="tiny", progress=quiet, machinery=machinery), 4))
        assert any("computed again in the backward pass" in line for line in quiet.said) == (setting == "on")
    assert all(torch.allclose(runs[0][name], runs[1][name], atol=1e-6) for name in runs[0])


def test_a_run_with_compute_copies_equals_autocasts_and_resumes_bit_for_bit(
    material: dict[str, Any],
) -> None:
    material["model"]["dtype"] = "bfloat16"
    # Decoding by modules draws from the same matrices whether they are cast now or before.
    plain = train(recipe_of(material), recipe_name="tiny", progress=Quiet(), machinery=PLAIN)
    copies = replace(PLAIN, compute_copy="on")
    whole = train(
        recipe_of(material, run={"name": "copies"}), recipe_name="tiny", progress=Quiet(),
        machinery=copies,
    )  # fmt: skip
    assert metrics(whole) == metrics(plain)
    recipe = recipe_of(material, run={"name": "stopped"})
    with pytest.raises(Interrupted):
        train(recipe, recipe_name="tiny", progress=Quiet(signal_at="step 2"), machinery=copies)
    folder = whole.parent / "stopped"
    resumed = train(resumed_recipe(folder, []), recipe_name="tiny", resume=folder, progress=Quiet(), machinery=copies)
    first, second, third = weights(plain, 4), weights(whole, 4), weights(resumed, 4)
    assert {tensor.dtype for tensor in second.values()} == {torch.float32}
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and torch.equal(tensor, third[name]), name
