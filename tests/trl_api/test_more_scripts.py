"""Scripts in the manner of TRL's documentation, examples and cookbooks, run whole with their imports changed."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mathgrpo.errors import UserError
from rollout.vllm_standin import StandIn, serving
from trl_api.local_hub import add_gsm8k, add_model

SCRIPTS = Path(__file__).parent / "scripts"
pytest.importorskip("datasets")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a script in a folder with local models and data, and returns its names."""
    import datasets

    add_model(tmp_path / "Qwen" / "Qwen2-0.5B-Instruct", "qwen2")
    (tmp_path / "trl-lib" / "maths").mkdir(parents=True)
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1?"}], "solution": f"${i + 1}$"} for i in range(16)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "trl-lib" / "maths" / "train.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    def run_script(name: str, *arguments: str) -> dict[str, Any]:
        source = (SCRIPTS / name).read_text(encoding="utf-8")
        changed = re.sub(r"^from trl(\.rewards)? import", "from mathgrpo import", source, flags=re.MULTILINE)
        assert changed != source and "trl import" not in changed
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(changed, name, "exec"), namespace)  # noqa: S102
        return namespace

    return run_script


def steps_of(names: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in names["trainer"].state.log_history if "loss" in line]


def moved(names: dict[str, Any], folder: Path) -> bool:
    """Whether the script's model is another than the one it began with."""
    from transformers import AutoModelForCausalLM

    start = AutoModelForCausalLM.from_pretrained(folder / "Qwen" / "Qwen2-0.5B-Instruct").state_dict()
    return any(bool((p.detach() != start[n]).any()) for n, p in names["trainer"].model.named_parameters() if n in start)


def test_lora_without_regret_shares_a_generation_between_two_steps(run: Run) -> None:
    names = run("lora_without_regret.py")
    assert [line["step"] for line in steps_of(names)] == [2 * i for i in range(1, 17)]
    assert "rewards/reasoning_accuracy_reward/mean" in steps_of(names)[0]


def test_deepseek_r1_joins_four_generations_in_a_step(run: Run) -> None:
    names = run("deepseek_r1.py")
    assert [line["step"] for line in steps_of(names)] == [1, 2, 3, 4]
    assert all("kl" in line for line in steps_of(names))


def test_gspo_holds_completions_back(run: Run, tmp_path: Path) -> None:
    names = run("gspo.py")
    assert [line["step"] for line in steps_of(names)] == [4, 8, 12, 16] and moved(names, tmp_path)
    assert max(line["clip_ratio/region_mean"] for line in steps_of(names)) > 0.0


def test_dapo_with_three_weighted_rewards(run: Run) -> None:
    names = run("dapo.py")
    line = steps_of(names)[0]
    parts = ("soft_overlong_punishment_reward", "repetition_penalty_reward", "cosine_scaled_reward")
    total = sum(w * line[f"rewards/{part}/mean"] for w, part in zip((1.0, 0.5, 2.0), parts, strict=True))
    assert line["reward"] == pytest.approx(total, abs=1e-5) and names["training_args"].top_p == 0.95
    assert names["trainer"].state.global_step == 4


def test_qlora_by_name_saved_loaded_merged(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    run("qlora.py")
    assert (tmp_path / "Qwen2-GRPO-merged" / "model.safetensors").is_file()


def test_a_vllm_server_on_the_command_line(run: Run, tmp_path: Path) -> None:
    standin = StandIn(tmp_path / "Qwen" / "Qwen2-0.5B-Instruct")
    with serving(standin) as url:
        names = run("vllm_server.py", "--vllm_server_host", "ip-127-0-0-1", "--vllm_server_port", url.rsplit(":", 1)[1])
    assert names["trainer"].engine.name == "vllm" and len(steps_of(names)) == 2
    assert "sampling/importance_sampling_ratio/mean" in steps_of(names)[0]


def test_a_script_with_everything_round_it(run: Run, tmp_path: Path) -> None:
    add_gsm8k(tmp_path / "openai" / "gsm8k", 16)
    names = run("open_r1.py")
    out = tmp_path / "open-r1"
    assert names["trainer"].state.global_step == 4 and [p.name for p in out.glob("checkpoint-*")] == ["checkpoint-4"]
    results = json.loads((out / "all_results.json").read_text())
    assert results["train_samples"] == 16 and {"eval_reward", "train_loss", "eval_samples"} <= set(results)
    assert "open-r1" in (out / "README.md").read_text()
    assert [line["step"] for line in steps_of(names)] == [1, 2, 4], "the second run goes on from the first"


def test_a_model_in_bfloat16_and_plain_prompts(run: Run, tmp_path: Path) -> None:
    names = run("model_object.py")
    assert (
        len(steps_of(names)) == 2 and moved(names, tmp_path) and (tmp_path / "by-hand" / "model.safetensors").is_file()
    )


def test_a_peft_model_trained_twice(run: Run, tmp_path: Path) -> None:
    names = run("peft_model.py")
    assert all("kl" in line for line in steps_of(names)) and (tmp_path / "merged" / "model.safetensors").is_file()


def test_evaluation_sets_early_stopping_and_the_history_as_a_table(run: Run) -> None:
    names = run("eval_sets.py")
    assert names["trainer"].state.global_step == 2 and names["trainer"].state.best_metric == 0.0
    assert len(names["rewards"]) == 2 and len(names["evaluated"]) == 6


def test_callbacks_that_sample_stop_and_save(run: Run, tmp_path: Path) -> None:
    names = run("samples.py")
    assert names["trainer"].state.global_step == 2 and (tmp_path / "samples" / "checkpoint-2").is_dir()


def test_reward_models_by_name_and_as_objects(run: Run, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "Qwen" / "Qwen2-0.5B-Instruct")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "vocab_size": len(tokenizer), "num_labels": 1}  # fmt: skip
    Qwen2ForSequenceClassification(Qwen2Config(**shape)).save_pretrained("org/judge")
    tokenizer.save_pretrained("org/judge")
    names = run("reward_models.py")
    assert names["trainer"].reward_func_names == ["judge", "judge_2", "short"]
    line = steps_of(names)[0]
    assert line["rewards/judge/mean"] == pytest.approx(line["rewards/judge_2/mean"], abs=1e-5)


def test_rewards_that_are_objects(run: Run) -> None:
    names = run("reward_objects.py")
    assert names["trainer"].reward_func_names == ["judge", "also_async", "matches", "<lambda>"]


def test_the_command_line_of_the_example_scripts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRIPT_SAYS", raising=False)
    (tmp_path / "config.yaml").write_text(
        "env:\n  SCRIPT_SAYS: hello\ndataset_name: trl-lib/maths\nmodel_name_or_path: Qwen/Qwen2-0.5B-Instruct\n"
        "max_steps: 3\nlearning_rate: 1.0e-4\ngradient_checkpointing: true\nnum_generations: 4\nbeta: 0.01\n"
    )
    names = run(
        "command_line.py", "--config", "config.yaml", "--max_steps", "2", "--output_dir", "cli",
        "--max_completion_length", "8", "--per_device_train_batch_size", "4", "--logging_steps", "1", "--use_peft",
        "--lora_r", "4", "--lora_target_modules", "all-linear",
        "--gradient_checkpointing_kwargs", '{"use_reentrant": false}',
        "--use_liger_kernel", "false", "--dtype", "bfloat16",
    )  # fmt: skip
    assert os.environ.pop("SCRIPT_SAYS") == "hello"
    assert names["training_args"].learning_rate == 1e-4 and names["trainer"].state.global_step == 2
    assert names["trainer"].model.peft_config["default"].r == 4
    assert (tmp_path / "cli" / "adapter_model.safetensors").is_file()


def test_a_config_file_with_what_no_argument_takes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_name_or_path: x\nlearning_rat: 1.0e-4\n")
    with pytest.raises(UserError, match=r"^--config: learning_rat is no argument"):
        run("command_line.py", "--config", "config.yaml")
    with pytest.raises(UserError, match=r"^--config missing.yaml: cannot be read"):
        run("command_line.py", "--config", "missing.yaml")
    with pytest.raises(UserError, match="loss_type='vespo'"):
        run("command_line.py", "--loss_type", "vespo")


def test_a_run_that_breaks_off_and_goes_on(run: Run, tmp_path: Path) -> None:
    names = run("interrupted.py")
    assert [line["step"] for line in steps_of(names)] == list(range(1, 9))
    assert sorted(p.name for p in (tmp_path / "interrupted").iterdir()) == ["checkpoint-6", "checkpoint-8"]
    assert (tmp_path / "final" / "model.safetensors").is_file()
