"""The fused forward pass against the model's modules: equal loss, log-probabilities and gradient of every parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.machinery import FAST, Choice, Machinery
from mathgrpo.config.recipe import GrpoSection, ModelSection, OptimizerSection
from mathgrpo.models import load_policy
from mathgrpo.models.qwen_view import QwenView
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.types import RolloutGroup
from mathgrpo.update import build_reference, policy_update
from mathgrpo.update.choose_passes import choose_forward, why_not_fused_forward
from mathgrpo.update.forward import ModuleForward
from mathgrpo.update.fused import fused_attention, fused_tiles
from mathgrpo.update.fused.fused_forward import FusedForward
from mathgrpo.update.lesson import Lesson
from mathgrpo.update.logprobs import MIN_CHUNK, chunk_rows
from mathgrpo.update.pack import Piece
from mathgrpo.update.updater import Updater
from update.grpo_cases import (
    MAX_NEW_TOKENS,
    RecordingSGD,
    TinyPolicy,
    largest_difference,
    lora_model,
    make_groups,
    update,
)

SAME = 1e-5


def both(make: Any, groups: list[RolloutGroup], **section: Any) -> tuple[Any, Any]:
    """Return (stats, gradients) of the fused forward pass and of the modules, on equal models."""
    results = []
    for how in ("on", "off"):
        model = make()
        reference = build_reference(TinyPolicy(tiny_model(seed=1)), section.get("beta", 0.0))
        results.append(update(model, groups, fused_forward=how, reference=reference, **section))
    return results[0], results[1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_loss_and_every_gradient_equal_the_modules(architecture: str, tied: bool) -> None:
    """The tiny models have grouped heads; Qwen2's projections have biases, Qwen3 has norms in its heads."""

    def make() -> Any:
        model = tiny_model(architecture, tie_word_embeddings=tied)
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:  # as initialised they would hide a norm or bias left out
                torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
        return model

    (fused, fused_gradients), (modules, module_gradients) = both(make, make_groups(), temperature=0.8)
    assert fused.metrics["loss"] == pytest.approx(modules.metrics["loss"], abs=1e-6)
    assert fused.metrics["entropy"] == pytest.approx(modules.metrics["entropy"], rel=1e-5)
    assert fused_gradients[0].keys() == module_gradients[0].keys() == dict(make().named_parameters()).keys()
    for name, expected in module_gradients[0].items():
        difference = (fused_gradients[0][name] - expected).norm() / expected.norm()
        assert difference < SAME, f"{name} differs by {difference:.1e}"


@pytest.mark.parametrize("bias", ["attention_bias", "mlp_bias"])
def test_biases_anywhere(bias: str) -> None:
    def make() -> Any:
        model = tiny_model("llama", **{bias: True})
        for name, parameter in model.named_parameters():
            if "bias" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    (_, fused), (_, modules) = both(make, make_groups())
    assert any("bias" in name for name in modules[0])
    assert largest_difference(fused[0], modules[0]) < SAME


@pytest.mark.parametrize("section", [
    {"token_budget": 30}, {"token_budget": 1}, {"beta": 0.2}, {"beta": 0.2, "token_budget": 30},
    {"updates_per_rollout": 2, "lr": 0.05, "beta": 0.1}, {"mask_truncated": True, "loss": "grpo"},
])  # fmt: skip
def test_splits_references_and_second_updates(section: dict[str, Any]) -> None:
    (fused, fused_gradients), (modules, module_gradients) = both(tiny_model, make_groups(same_rewards=(1,)), **section)
    assert fused.micro_batches == modules.micro_batches
    for name, value in modules.metrics.items():
        assert fused.metrics[name] == pytest.approx(value, abs=2e-5, rel=1e-4), name
    for ours, theirs in zip(fused_gradients, module_gradients, strict=True):
        assert largest_difference(ours, theirs) < 1e-4 if "lr" in section else SAME


def test_probabilities_computed_again_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for elements in (0, 1 << 40):  # all kept, none kept
        monkeypatch.setattr("mathgrpo.update.fused.fused_forward.probability_elements", lambda blocks, n=elements: n)
        gradients.append(update(tiny_model(), make_groups(), fused_forward="on")[1][0])
    assert largest_difference(*gradients) == 0.0


@pytest.mark.parametrize(("queries", "scores"), [(5, 1), (16, 2000), (1 << 20, 1 << 30)])
def test_tiles_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch, queries: int, scores: int) -> None:
    """Completions and prompts in tiles: many of one sequence, some of several, one of all."""
    groups = make_groups(num_groups=3, group_size=4)
    whole = update(tiny_model(), groups, fused_forward="on")
    shapes = []
    monkeypatch.setattr(fused_attention, "TILED_FROM", 1)
    for name, value in (("TILE_QUERIES", queries), ("TILE_SCORES", scores)):
        monkeypatch.setattr(fused_tiles, name, value)
    taken = fused_tiles.attend_tiled_backward
    monkeypatch.setattr(
        "mathgrpo.update.fused.fused_attention.attend_tiled_backward",
        lambda *given: (shapes.append(len(list(fused_tiles._tiles(given[4], given[5])))), taken(*given))[1],
    )
    tiled = update(tiny_model(), groups, fused_forward="on")
    assert shapes and (max(shapes) > 2) == (queries < 1 << 20)
    assert tiled[0].metrics["loss"] == pytest.approx(whole[0].metrics["loss"], abs=1e-7)
    assert tiled[0].metrics["entropy"] == pytest.approx(whole[0].metrics["entropy"], rel=1e-6)
    assert largest_difference(tiled[1][0], whole[1][0]) < 1e-6


def test_layers_computed_again_give_the_same_gradient() -> None:
    plain = update(tiny_model(), make_groups(), fused_forward="on", token_budget=30)[1][0]
    model = tiny_model()
    model.model.gradient_checkpointing = True
    assert largest_difference(update(model, make_groups(), fused_forward="on", token_budget=30)[1][0], plain) < 1e-6


def test_frozen_parameters_get_no_gradient() -> None:
    model = tiny_model()
    model.get_input_embeddings().weight.requires_grad_(False)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    _, (gradient,) = update(model, make_groups(), fused_forward="on")
    _, (everything,) = update(tiny_model(), make_groups(), fused_forward="on")
    assert set(everything) - set(gradient) == {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"}
    assert largest_difference(gradient, {name: everything[name] for name in gradient}) < 1e-6


def test_completions_of_one_token_and_of_very_different_lengths() -> None:
    groups = make_groups(num_groups=2, group_size=4)
    lengths = [len(completion.ids) for group in groups for completion in group.completions]
    assert 1 in lengths and max(lengths) > 4
    (_, fused), (_, modules) = both(tiny_model, groups)
    assert largest_difference(fused[0], modules[0]) < SAME


def test_out_of_memory_starts_the_step_again_without_the_first_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = make_groups()
    _, (expected,) = update(tiny_model(), groups, fused_forward="on")
    hidden, calls = FusedForward.hidden, []

    def fail_in_the_second(self: FusedForward, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return hidden(self, batch)

    monkeypatch.setattr(FusedForward, "hidden", fail_in_the_second)
    stats, (gradient,) = update(tiny_model(), groups, fused_forward="on", token_budget=60)
    assert len(calls) > 2 and stats.token_budget <= 30
    assert largest_difference(gradient, expected) < SAME


def test_who_is_served() -> None:
    section = FAST
    assert isinstance(choose_forward(TinyPolicy(tiny_model()), section, shared_prompt=True), FusedForward)
    for model, shared, changed in [
        (tiny_model("gpt2"), True, {}), (lora_model(), True, {}), (tiny_model(), False, {}),
        (tiny_model(), True, {"fused_forward": "off"}), (tiny_model(), True, {"attention": "sdpa"}),
    ]:  # fmt: skip
        chosen = choose_forward(TinyPolicy(model), Machinery(**changed), shared_prompt=shared)
        assert isinstance(chosen, ModuleForward)
    with pytest.raises(ValueError, match="does not serve this run, because it trains"):
        update(lora_model(), make_groups(), fused_forward="on")
    hooked = tiny_model()
    hooked.model.layers[1].register_forward_hook(lambda *_: None)
    assert "hooks" in why_not_fused_forward(hooked)


@pytest.mark.parametrize("dress", ["hook", "forward", "module"])
def test_a_model_that_is_wrapped_between_two_updates_is_served_as_it_is_then(dress: str) -> None:
    model, groups, seen = tiny_model(), make_groups(), list[Any]()
    updater = Updater(TinyPolicy(model), RecordingSGD(model, 0.0))
    lesson = Lesson(GrpoSection(), 1.0, MAX_NEW_TOKENS, 1e9)
    expected = updater.update(groups, lesson).metrics["loss"]
    layer = model.model.layers[1]
    if dress == "hook":
        layer.mlp.register_forward_hook(lambda *_: seen.append(1))
    elif dress == "forward":
        real = layer.forward
        layer.forward = lambda *args, **keywords: seen.append(1) or real(*args, **keywords)
    else:

        class Watched(torch.nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                seen.append(1)
                return super().forward(x)

        layer.mlp.down_proj.__class__ = Watched
    assert updater.update(groups, lesson).metrics["loss"] == pytest.approx(expected, abs=SAME) and seen


def test_chunks_cover_all_rows_once() -> None:
    rows = chunk_rows(1000, 151_936, "cpu")
    assert [part.stop - part.start for part in rows] == [MIN_CHUNK, MIN_CHUNK, MIN_CHUNK, 1000 - 3 * MIN_CHUNK]
    assert [part.start for part in rows[1:]] == [part.stop for part in rows[:-1]]


def starter_gradient(dtype: str, how: Choice, groups: list[RolloutGroup]) -> torch.Tensor:
    policy = load_policy(ModelSection(dtype=dtype), "cpu", train=True)
    optimizer = build_optimizer(policy.model, OptimizerSection())
    kept: list[torch.Tensor] = []
    optimizer.register_step_pre_hook(
        lambda *_: kept.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    )
    policy_update(
        policy,
        optimizer,
        groups,
        GrpoSection(),
        temperature=1.0,
        max_new_tokens=9,
        max_grad_norm=1e9,
        machinery=Machinery(fused_forward=how),
    )
    return kept[0]


def test_bfloat16_is_as_near_to_float32_as_the_modules_under_autocast() -> None:
    """16 bits alone cost some percent of a gradient on one small batch, whoever computes it."""
    errors: dict[str, list[float]] = {"on": [], "off": []}
    for seed in range(3):
        groups = make_groups(num_groups=6, group_size=6, seed=seed)
        exact = starter_gradient("float32", "off", groups)
        for how, values in errors.items():
            values.append(((starter_gradient("bfloat16", how, groups) - exact).norm() / exact.norm()).item())
        # Against float64 both are off by up to 4e-5 here: random text is far from what the starter was trained on.
        float32 = starter_gradient("float32", "on", groups)
        assert (float32 - exact).norm() / exact.norm() < 2e-4
    assert sum(errors["on"]) < 1.1 * sum(errors["off"])
    assert max(errors["on"]) < 0.1, "cosine below 0.995"


@pytest.mark.parametrize("updates", [1, 2])
def test_no_matrix_is_folded_twice_for_an_optimizer_step(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Each view once a step, though a step in parts looks ahead at all log-probabilities before the first one."""
    folded: list[Any] = []
    real = QwenView.refresh
    monkeypatch.setattr(QwenView, "refresh", lambda view, *rest: folded.append(view) or real(view, *rest))
    model = tiny_model()
    update(model, make_groups(), updates_per_rollout=updates)
    assert len(folded) == updates
    folded.clear()
    model, groups = tiny_model(), make_groups()
    parts = [[Piece(b, half) for b in range(len(groups))] for half in ((0, 1), (2, 3))]
    policy_update(
        TinyPolicy(model), RecordingSGD(model, 0.0), groups, GrpoSection(updates_per_rollout=updates * 2),
        temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, max_grad_norm=1e9, parts=parts,
    )  # fmt: skip
    assert len(folded) == updates * 2
