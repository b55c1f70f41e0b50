"""An engine that does not draw from the policy: nothing is learnt from what it drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.errors import UserError
from mathgrpo.rollout import Engine, build_engine
from mathgrpo.training import prepare, train
from mathgrpo.trl_api import script_setup
from mathgrpo.types import Completion, Prompt, Sampling
from training.test_loop import Quiet, metrics, recipe_of, weights
from trl_api.trainer_cases import logs_of, trainer


class Liar(Engine):
    """Says of every token that it is likelier than it is, from some call on; falls back on the truth if it can."""

    name, reason = "native", "a lying decoder"

    def __init__(self, engine: Engine, lie: float, *, mends: bool, first: int = 1, share: float = 1.0) -> None:
        self.engine, self.lie, self.mends, self.first, self.share, self.calls = engine, lie, mends, first, share, 0

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        drawn = self.engine.generate(prompts, group_size, sampling)
        self.calls += len(drawn[0]) > 1  # evaluations draw one greedily
        lie = self.lie if self.calls >= self.first else 0.0
        return [[self._lied(completion, lie) for completion in group] for group in drawn]

    def _lied(self, completion: Completion, lie: float) -> Completion:
        count = max(1, round(self.share * len(completion.ids)))
        spoilt = [value + lie * (place < count) for place, value in enumerate(completion.logprobs)]
        return replace(completion, logprobs=tuple(spoilt))

    def fall_back(self, why: str) -> bool:
        self.lie, before = self.lie if not self.mends else 0.0, self.mends
        self.mends = False
        self.notes += (f"fell back: {why}",) if before else ()
        return before


def lying(monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[Liar]:
    made: list[Liar] = []

    def build(*given: Any, **more: Any) -> Engine:
        made.append(Liar(build_engine(*given, **more), **how))
        return made[-1]

    for module in (prepare, script_setup):
        monkeypatch.setattr(module, "build_engine", build)
    return made


Material = dict[str, Any]
SHORT: dict[str, Any] = {
    "training": {"evaluate_every": 0, "steps": 2, "checkpoint_every": 1},
    "evaluation": {"samples": 0},
}


def test_a_recipe_draws_the_step_again_and_goes_on(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = train(recipe_of(material, **SHORT), recipe_name="tiny", progress=Quiet())
    lying(monkeypatch, lie=0.3, mends=True, first=2)
    quiet = Quiet()
    run = train(recipe_of(material, **SHORT, run={"name": "lied-to"}), recipe_name="tiny", progress=quiet)
    assert any("fell back: in step 2 the sampled tokens' log-probabilities are 0.3 nats" in line for line in quiet.said)
    assert all(torch.equal(a, b) for a, b in zip(weights(honest, 2).values(), weights(run, 2).values(), strict=True))


def test_a_recipe_stops_before_it_learns_and_keeps_what_there_is(
    material: Material,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lying(monkeypatch, lie=0.3, mends=False, first=2)
    recipe = recipe_of(material, **SHORT)
    with pytest.raises(UserError) as stopped:
        train(recipe, recipe_name="tiny", progress=Quiet())
    words = str(stopped.value)
    assert words.startswith(
        "step 2: the sampled tokens' log-probabilities are 0.3 nats a token from the policy's own, "
    )
    for part in (
        "where 0.002 is explained by rounding",
        "nothing was learnt",
        "(rollout engine native: a lying decoder)",
    ):
        assert part in words
    assert "the last good weights are in" in words and words.endswith("; report it") and "\n" not in words
    run = Path(recipe.run.output_dir) / "whole"
    assert weights(run, 1) and (run / "failed-step-2.jsonl").is_file() and len(metrics(run)) == 1


def test_a_script_draws_again_or_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = trainer(tmp_path / "honest", max_steps=2)
    honest.train()
    lying(monkeypatch, lie=-1.0, mends=True, first=2)
    mended = trainer(tmp_path / "mended", max_steps=2)
    mended.train()
    assert [line["loss"] for line in logs_of(honest)] == [line["loss"] for line in logs_of(mended)]
    lying(monkeypatch, lie=-1.0, mends=False)
    model = tiny_model()
    stopped = trainer(tmp_path / "stopped", model=model, max_steps=2)
    with pytest.raises(UserError, match=r"^step 1: the sampled tokens' log-probabilities are 1 nats"):
        stopped.train()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model().parameters(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.7, "temperature": 1.5}, {"top_k": 5}, {"min_p": 0.2}, {"temperature": 0.3}, {"bf16": True},
        {"num_iterations": 2, "learning_rate": 0.05}, {"steps_per_generation": 4, "learning_rate": 0.05},
    ],
)  # fmt: skip
def test_what_explains_itself_is_no_reason_to_stop(settings: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(tmp_path, **({"max_steps": 2} | settings))
    run.train()
    assert logs_of(run) and not run.engine.notes


def test_dropout_is_no_reason_to_stop_and_hides_no_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig

    def run(**more: Any) -> Any:
        adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False)
        return trainer(tmp_path, peft_config=adapter, max_steps=2, **more)

    run().train()
    lying(monkeypatch, lie=0.2, mends=False)
    with pytest.raises(UserError, match=r"0\.2 nats a token"):
        run(top_p=0.9).train()


def test_a_wrong_first_pass_of_the_update_is_left_for_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mathgrpo.update.fused.fused_forward import FusedForward

    real: Callable[..., Any] = FusedForward.hidden
    monkeypatch.setattr(FusedForward, "hidden", lambda self, batch: real(self, batch) * 1.05)
    run = trainer(tmp_path, max_steps=2)
    run.train()
    assert len(logs_of(run)) == 2 and not run.engine.notes
    honest = logs_of(run)[0]["sampling/sampling_logp_difference/mean"]
    assert honest < 1e-4
