"""GRPOConfig: every field of TRL is served, void or refused with a remedy; nothing is unknown."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from mathgrpo import GRPOConfig
from mathgrpo.errors import UserError
from mathgrpo.trl_api.argument_fields import NO_EFFECT, NOT_SERVED, RENAMED

SERVED = {field.name: field for field in dataclasses.fields(GRPOConfig) if field.name not in NO_EFFECT | NOT_SERVED}
# Same meaning, another default: output_dir and eval_steps resolve to TRL's values, top_k and the rest differ in name of
# "off" only; bf16 is explained where it is defined.
_RESOLVED = {"output_dir"}


def _trl_fields() -> dict[str, Any]:
    trl = pytest.importorskip("trl")
    return {field.name: field for field in dataclasses.fields(trl.GRPOConfig)}


def test_every_field_of_trl_is_known_and_none_is_in_two_tables() -> None:
    known = set(SERVED) | set(NO_EFFECT) | set(NOT_SERVED)
    assert set(_trl_fields()) - known == set()
    assert len(known) == len(SERVED) + len(NO_EFFECT) + len(NOT_SERVED)
    assert not set(RENAMED) & known


def test_defaults_of_served_fields_are_those_of_trl() -> None:
    for name, theirs in _trl_fields().items():
        if name in SERVED and name not in _RESOLVED:
            default = theirs.default
            value = getattr(default, "value", default)
            assert SERVED[name].default == value, name


def test_refused_fields_are_accepted_at_the_default_of_trl() -> None:
    for name, theirs in _trl_fields().items():
        if name in NOT_SERVED:
            assert NOT_SERVED[name][0] == theirs.default, name
            GRPOConfig(**{name: theirs.default})


@pytest.mark.parametrize("name", sorted(NOT_SERVED))
def test_a_field_that_is_not_served_stops_with_a_remedy(name: str) -> None:
    default, remedy = NOT_SERVED[name]
    other = {bool: not default, float: 0.5}.get(type(default), "something")
    with pytest.raises(UserError, match=f"^{name}=.*not served here") as caught:
        GRPOConfig(**{name: other})
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", sorted(NO_EFFECT))
def test_a_field_without_effect_takes_any_value_and_keeps_it(name: str) -> None:
    assert getattr(GRPOConfig(**{name: "anything"}), name) == "anything"


def test_an_unknown_field_is_a_type_error_as_in_a_dataclass() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rat'"):
        GRPOConfig(learning_rat=1e-5)  # type: ignore[call-arg]


def test_an_old_name_names_the_new_one() -> None:
    with pytest.raises(UserError, match="called eval_strategy"):
        GRPOConfig(evaluation_strategy="steps")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "fields",
    [
        {"num_generations": 1}, {"num_generations": 3}, {"generation_batch_size": 20},
        {"steps_per_generation": 3, "gradient_accumulation_steps": 2}, {"steps_per_generation": 0},
        {"steps_per_generation": 1, "gradient_accumulation_steps": 2, "num_iterations": 2},
        {"generation_batch_size": 16, "steps_per_generation": 1}, {"logging_steps": 0},
        {"eval_strategy": "steps", "eval_steps": 0}, {"generation_kwargs": {"repetition_penalty": 1.2}},
        {"generation_kwargs": {"do_sample": False}},
        {"importance_sampling_level": "word"}, {"loss_type": "gspo"}, {"delta": 0.0}, {"sapo_temperature_pos": -1.0},
        {"entropy_coef": float("nan")},
        {"max_steps": 2.5},
        {"num_generations": 2.5}, {"loss_type": "vespo"}, {"optim": "adafactor"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"}, {"scale_rewards": "rows"}, {"epsilon": 0.0},
        {"epsilon": float("inf")}, {"epsilon_high": -1.0},
        {"temperature": 0.0}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 1.0},
        {"max_prompt_length": 0}, {"max_completion_length": None}, {"learning_rate": -1.0}, {"warmup_ratio": 1.0},
        {"report_to": "mlflow"}, {"save_strategy": "best"}, {"beta": -0.1}, {"num_train_epochs": 0},
        {"reward_weights": [float("nan")]}, {"seed": "seven"}, {"model_init_kwargs": "not json"},
        {"per_device_train_batch_size": 0},
    ],
)  # fmt: skip
def test_impossible_values_stop_naming_the_field(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        GRPOConfig(**fields)
    assert any(name in str(caught.value) for name in fields)


def test_batch_sizes_count_completions_as_in_trl() -> None:
    trl = pytest.importorskip("trl")
    sizes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}
    ours, theirs = GRPOConfig(**sizes), trl.GRPOConfig("out", bf16=False, use_cpu=True, **sizes)
    assert ours.generation_batch_size == theirs.generation_batch_size == 16
    assert ours.steps_per_generation == theirs.steps_per_generation == 2
    assert ours.prompts_per_rollout == 4 and ours.parts_per_rollout == 1


@pytest.mark.parametrize(
    ("fields", "prompts", "parts"),
    [
        ({"gradient_accumulation_steps": 4, "generation_batch_size": 64}, 8, 2),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "generation_batch_size": 8}, 1, 2),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 128, "steps_per_generation": 16}, 64, 1),
    ],
)  # fmt: skip
def test_a_generation_is_divided_between_steps_or_joined_with_others(
    fields: dict[str, Any], prompts: int, parts: int
) -> None:
    """The second is TRL's "LoRA without regret", the third its DeepSeek-R1 settings."""
    made = GRPOConfig(**fields)
    assert (made.prompts_per_rollout, made.parts_per_rollout) == (prompts, parts)


def test_generation_kwargs_go_before_the_fields_of_their_names() -> None:
    made = GRPOConfig(top_p=0.5, generation_kwargs={"do_sample": True, "top_p": 0.9, "top_k": 20, "min_p": 0.1})
    assert (made.top_p, made.top_k, made.min_p) == (0.9, 20, 0.1)


def test_the_better_metric_is_the_larger_one_unless_it_is_a_loss() -> None:
    assert GRPOConfig(metric_for_best_model="eval_reward").greater_is_better is True
    assert GRPOConfig(metric_for_best_model="eval_loss").greater_is_better is False
    assert GRPOConfig(metric_for_best_model="eval_kl", greater_is_better=False).greater_is_better is False
    assert GRPOConfig().greater_is_better is None


def test_facts_that_scripts_ask_of_training_arguments() -> None:
    made = GRPOConfig(use_cpu=True, per_device_train_batch_size=4, num_generations=4)
    assert str(made.device) == "cpu" and made.n_gpu == 0 and made.local_rank == -1  # type: ignore[attr-defined]
    assert (made.train_batch_size, made.eval_batch_size, made.world_size) == (4, 8, 1)
    assert isinstance(made.get_process_log_level(), int)


def test_scale_rewards_and_report_to_are_normalised() -> None:
    made = GRPOConfig(scale_rewards=False, report_to="none")
    assert (made.scale_rewards, made.report_to) == ("none", [])
    assert GRPOConfig(scale_rewards=True).scale_rewards == "group"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"warmup_ratio": 0.1}, 40), ({"warmup_steps": 7}, 7), ({"warmup_steps": 0.1}, 40), ({}, 0),
     ({"warmup_steps": 5, "warmup_ratio": 0.5}, 5)],
)  # fmt: skip
def test_warmup_in_steps_or_as_a_share(fields: dict[str, Any], expected: int) -> None:
    assert GRPOConfig(**fields).get_warmup_steps(400) == expected


def test_tokens_are_masked_where_settings_are_written() -> None:
    made = GRPOConfig(hub_token="hf_secret")
    assert "hf_secret" not in made.to_json_string() + repr(made) + str(made.to_sanitized_dict())


def test_the_config_can_be_replaced_and_parsed_like_a_dataclass() -> None:
    from transformers import HfArgumentParser

    assert dataclasses.replace(GRPOConfig(beta=0.5), max_steps=3).beta == 0.5
    (made,) = HfArgumentParser(GRPOConfig).parse_args_into_dataclasses(["--beta", "0.25", "--max_steps", "5"])  # type: ignore[arg-type]
    assert (made.beta, made.max_steps) == (0.25, 5)


def test_importing_the_package_or_the_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, mathgrpo; from mathgrpo import GRPOConfig; GRPOConfig('out');"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft', 'trl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
