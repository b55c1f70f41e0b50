import json
from pathlib import Path

import pytest

from mathgrpo.config.sft_recipe import SftOptimizerSection, SftRecipe
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.supervised.new_model import train_tokenizer, whole_words
from mathgrpo.supervised.sft import run_sft
from mathgrpo.supervised.sft_steps import learning_rate_factor

XML = get_format("xml")


def recipe(folder: Path, rows: list[dict[str, str]], **sections: object) -> SftRecipe:
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SftRecipe.model_validate_json(
        json.dumps(
            {
                "run": {"name": "sft", "output_dir": str(folder / "runs")},
                "problems": {"source": str(data), "columns": {"solution": "solution"}, "heldout_size": 4},
                "model": {
                    "new": {
                        "vocab_size": 400,
                        "hidden_size": 32,
                        "intermediate_size": 64,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 4,
                        "num_key_value_heads": 2,
                    }
                },
                "stages": [{"tokens": 20000, "drills": 0.2}],
                "training": {"batch_tokens": 1024, "log_every": 5, "max_new_tokens": 24},
                **sections,
            }
        )
    )


ROWS = [
    {"question": f"Tom has {a} pens and buys {b}. How many now?", "answer": str(a + b), "solution": f"{a}+{b}={a + b}"}
    for a in range(1, 9)
    for b in range(1, 6)
]


def test_a_tokenizer_has_single_digits_and_whole_tags() -> None:
    tokenizer = train_tokenizer(["Tom has 12 pens", "pens and pens"] * 20, whole_words(XML), 400)
    tokens = tokenizer.tokenize("<answer>\n1234\n</answer>")
    assert tokens[0] == "<answer>" and tokens[2:6] == ["1", "2", "3", "4"]
    text = "Ünïcode \U0001f600 and 3.5 £ </reasoning>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    system = tokenizer.apply_chat_template([{"role": "system", "content": XML.system_prompt}], tokenize=True)[
        "input_ids"
    ]
    assert len(system) == 2


def test_a_saved_tokenizer_comes_back_the_same(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from mathgrpo.config.sft_recipe import NewModelSection
    from mathgrpo.supervised.new_model import build_model

    tokenizer = train_tokenizer(["Tom has 12 pens for £3.50 each"] * 20, whole_words(XML), 320)
    shape = NewModelSection(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    build_model(shape, tokenizer, 0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<reasoning>\n12*3=36\n</reasoning> Tom's pens: £3.50 (each)...\n\n<answer>\n36\n</answer>"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"] and len(loaded) == len(tokenizer)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls_and_the_model_loads(tmp_path: Path, optimizer: str) -> None:
    from mathgrpo.config.load_recipe import recipe_from_toml
    from mathgrpo.config.recipe import ModelSection
    from mathgrpo.evaluation import read_evaluation
    from mathgrpo.models import load_policy

    folder = run_sft(recipe(tmp_path, ROWS, optimizer={"name": optimizer, "learning_rate": 0.003}), "sft")
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    policy = load_policy(ModelSection(path=str(folder)), "cpu", train=False)
    assert read_evaluation(folder, "after").summary()["problems"] == 4
    assert recipe_from_toml(SftRecipe, folder / "config.toml").optimizer.name == optimizer
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert policy.tokenizer.convert_tokens_to_ids("<|end|>") in policy.eos_ids


def test_rows_without_solutions_are_one_clear_error(tmp_path: Path) -> None:
    rows = [{**row, "solution": ""} for row in ROWS]
    with pytest.raises(UserError, match=r"^problems\.[^\n]*worked solution[^\n]*$"):
        run_sft(recipe(tmp_path, rows), "sft")


def test_a_used_run_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    (tmp_path / "runs" / "sft" / "precious").touch()
    with pytest.raises(UserError, match=r"run\.name=sft: .* exists already; choose another"):
        run_sft(recipe(tmp_path, ROWS), "sft")


def test_a_signal_saves_the_model_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from mathgrpo.supervised import sft
    from mathgrpo.training import Interrupted

    monkeypatch.setattr(sft, "_log", lambda lines, folder: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match=r"go on from it with --set model\.path="):
        run_sft(recipe(tmp_path, ROWS), "sft")
    assert (tmp_path / "runs" / "sft" / "checkpoints" / "step-5" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "runs" / "sft" / "run.json").read_text())["status"] == "interrupted"


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = SftOptimizerSection(warmup_ratio=0.1, decay_ratio=0.5)
    assert [learning_rate_factor(t, 100, rates) for t in (0, 5, 30, 75, 100)] == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert learning_rate_factor(0, 100, SftOptimizerSection(warmup_ratio=0.0, decay_ratio=0.0)) == 1.0


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
def test_an_existing_model_learns_too(tmp_path: Path, lora: bool) -> None:
    from fakes import tiny_model, tiny_tokenizer
    from mathgrpo.config.recipe import ModelSection
    from mathgrpo.models import load_policy

    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    section = {"path": str(tmp_path / "model")} | ({"lora": {"r": 8, "alpha": 16}} if lora else {})
    optimizer = {"name": "adamw", "learning_rate": 0.01}
    folder = run_sft(recipe(tmp_path, ROWS, model=section, optimizer=optimizer), "sft")
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    policy = load_policy(ModelSection(path=str(folder)), "cpu", train=False)
    assert policy.model.num_parameters() > 20_000


def test_a_signal_during_the_evaluation_and_a_failure_are_noted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal
    from typing import Any

    from mathgrpo.supervised import sft
    from mathgrpo.training import Interrupted

    plain = sft.evaluate

    def interrupted(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return plain(*arguments, **options)

    monkeypatch.setattr(sft, "evaluate", interrupted)
    with pytest.raises(Interrupted, match=r"stopped after step \d+; the model so far is in"):
        run_sft(recipe(tmp_path, ROWS, stages=[{"tokens": 3000}]), "sft")
    info = json.loads((tmp_path / "runs" / "sft" / "run.json").read_text())
    assert info["status"] == "interrupted" and info["steps_done"] > 0 and info["end_time"]
    assert (tmp_path / "runs" / "sft" / "checkpoints" / f"step-{info['steps_done']}").is_dir()

    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(sft, "supervised_steps", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        run_sft(recipe(tmp_path, ROWS, run={"name": "other", "output_dir": str(tmp_path / "runs")}), "sft")
    assert json.loads((tmp_path / "runs" / "other" / "run.json").read_text())["status"] == "failed"


def test_notes_are_shown_and_a_change_of_format_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = {"answer": "3", "reasoning": "1+2=3", "completion": "c", "verdict": "correct"}
    rows: list[dict[str, object]] = [
        {"question": f"{i}+0?", **trace, "settings": {"format": "boxed"}} for i in range(20)
    ]
    plain = recipe(tmp_path, rows, problems={"source": str(tmp_path / "rows.jsonl")}, stages=[{"tokens": 500}])  # type: ignore[arg-type]
    run_sft(plain, "sft")
    out = capsys.readouterr().out
    assert "note        the traces were written in format boxed, this run teaches xml (format.name)" in out
    assert "note        train: 18 worked solutions of 18 questions" in out


def test_a_disk_without_room_for_the_model_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from mathgrpo.supervised import sft

    monkeypatch.setattr(sft.shutil, "disk_usage", lambda place: SimpleNamespace(free=100_000))
    with pytest.raises(
        UserError, match=r"^run\.output_dir=[^\n]*runs: the trained model needs 0\.\d MB, 0\.1 MB are free"
    ):
        run_sft(recipe(tmp_path, ROWS), "sft")
    assert not (tmp_path / "runs").exists()
    monkeypatch.undo()
    run_sft(recipe(tmp_path, ROWS, stages=[{"tokens": 500}]), "sft")
    # What was told is what is written.
    [model] = (tmp_path / "runs" / "sft").glob("checkpoints/*/model.safetensors")
    monkeypatch.setattr(sft.shutil, "disk_usage", lambda place: SimpleNamespace(free=model.stat().st_size))
    run_sft(
        recipe(tmp_path, ROWS, run={"name": "two", "output_dir": str(tmp_path / "runs")}, stages=[{"tokens": 500}]), "x"
    )
