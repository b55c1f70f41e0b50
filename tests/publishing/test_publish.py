"""What goes up, what never does, and what the card says; a recording hub takes the hub's place."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mathgrpo.errors import UserError
from mathgrpo.publishing import publish, stage
from mathgrpo.publishing.card import data_name, public_recipe, without_folders
from mathgrpo.publishing.publish import staged_lines, upload
from mathgrpo.publishing.source import find_source, recipe_of_run
from publishing.published import trained_run

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


class RecordingHub:
    """Takes the calls of HfApi, keeps them, and copies what it is given: the real signatures, checked on the way."""

    def __init__(self, folder: Path, *, exists_public: bool = False, refuse: str = "") -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._folder, self._public, self._refuse = folder, exists_public, refuse

    def __call__(self, *arguments: Any, **options: Any) -> RecordingHub:
        assert not arguments and not options, "a token must never be handed over by us"
        return self

    def _take(self, name: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        import inspect

        from huggingface_hub.hf_api import HfApi

        bound = inspect.signature(getattr(HfApi, name)).bind(None, *arguments, **options).arguments
        given = {key: value for key, value in bound.items() if key != "self"}
        self.calls.append((name, given))
        return given

    def create_repo(self, *arguments: Any, **options: Any) -> Any:
        if self._refuse:
            raise ValueError(f"403 for {self._refuse}")
        given = self._take("create_repo", *arguments, **options)
        self._public = self._public or not given["private"]
        return SimpleNamespace(repo_id=f"ana/{given['repo_id']}")

    def repo_info(self, *arguments: Any, **options: Any) -> Any:
        self._take("repo_info", *arguments, **options)
        return SimpleNamespace(private=not self._public)

    def upload_folder(self, *arguments: Any, **options: Any) -> Any:
        from huggingface_hub.utils import filter_repo_objects

        given = self._take("upload_folder", *arguments, **options)
        source = Path(given["folder_path"])
        names = [str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()]
        for name in filter_repo_objects(names, allow_patterns=given["allow_patterns"]):
            shutil.copy(source / name, self._folder / name)
        return SimpleNamespace(commit_url="https://hub/ana/small/commit/1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("run"), lora=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingHub:
    (tmp_path / "hub").mkdir()
    made = RecordingHub(tmp_path / "hub")
    plug_in(made, monkeypatch)
    return made


def plug_in(hub: RecordingHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr(publish, "is_reachable", lambda: True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    from mathgrpo.cli import main

    monkeypatch.setattr(sys, "argv", ["mathgrpo", "publish", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_what_goes_up_is_what_the_dry_run_shows(
    run: Path, tmp_path: Path, hub: RecordingHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, run, "small", "--dry-run", "--check", 4, "--license", "mit") == 0
    shown = capsys.readouterr().out
    assert hub.calls == [] and "dry run: nothing was uploaded" in shown and "small (private)" in shown
    assert command(monkeypatch, run, "small", "--check", 4, "--license", "mit") == 0
    said = capsys.readouterr().out
    assert "published   https://hub/ana/small/commit/1" in said
    uploaded = {path.name: path.stat().st_size for path in (tmp_path / "hub").iterdir()}
    rows = [line.split() for line in shown.splitlines() if " bytes  " in line and not line.endswith(" files")]
    listed = {name: int(size.replace(",", "")) for size, _, name in rows}
    assert uploaded.keys() == listed.keys() and {"README.md", "curves.png", "model.safetensors"} <= uploaded.keys()
    changing = {"export.json"}  # holds the time
    assert all(uploaded[name] == listed[name] for name in uploaded.keys() - changing)
    assert (tmp_path / "hub" / "README.md").read_text() in shown + "\n"
    assert [name for name, _ in hub.calls] == ["create_repo", "repo_info", "upload_folder"]
    assert hub.calls[0][1]["private"] is True and hub.calls[2][1]["repo_id"] == "ana/small"


def test_no_state_rollouts_or_logs_go_up_and_no_place_or_token_is_in_a_file(
    run: Path, tmp_path: Path, hub: RecordingHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, run, "small", "--check", 0) == 0
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert not names & {"optimizer.safetensors", "training_state.json", "rollouts.jsonl", "metrics.jsonl", "run.json",
                        "config.toml", "adapter_model.safetensors"}  # fmt: skip
    captured = capsys.readouterr()
    everything = [path.read_bytes() for path in (tmp_path / "hub").iterdir()]
    everything += [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    for content in [*everything, captured.out.encode(), captured.err.encode()]:
        assert TOKEN.encode() not in content
    for path in (tmp_path / "hub").iterdir():
        assert str(run.parents[1]).encode() not in path.read_bytes(), f"{path.name} says where the run lies"
    assert all(TOKEN not in repr(call) for call in hub.calls)


def test_a_public_repository_is_not_taken_for_a_private_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    hub = RecordingHub(tmp_path / "hub", exists_public=True)
    plug_in(hub, monkeypatch)
    assert command(monkeypatch, run, "small", "--check", 0) == 2
    assert "exists already and is public; give --public" in capsys.readouterr().err
    assert not list((tmp_path / "hub").iterdir())
    assert command(monkeypatch, run, "small", "--check", 0, "--public") == 0
    assert list((tmp_path / "hub").iterdir())


def test_a_refusal_is_one_line_without_the_token(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(RecordingHub(tmp_path, refuse=f"token {TOKEN}"), monkeypatch)
    assert command(monkeypatch, run, "small", "--check", 0) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "was refused (403 for token ***)" in error and TOKEN not in error


def test_offline_and_logged_out_are_one_line_before_any_work(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publish, "is_reachable", lambda: False)
    monkeypatch.setattr(publish, "export_run", None)
    assert command(monkeypatch, run, "small") == 2
    assert "the model hub does not answer; see what would go up with --dry-run" in capsys.readouterr().err
    monkeypatch.setattr(publish, "is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert command(monkeypatch, run, "small") == 2
    assert "nobody is logged in to the model hub; run: hf auth login" in capsys.readouterr().err


def test_a_token_in_the_recipe_stops_everything(run: Path, tmp_path: Path, hub: RecordingHub) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "runs" / "copy"))
    info = json.loads((copy / "run.json").read_text())
    info["notes"].append(f"adapter pushed with {TOKEN}")
    (copy / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"README.md holds what looks like a token") as caught:
        stage(str(copy), "small", tmp_path / "staged", check=0)
    assert TOKEN not in str(caught.value) and hub.calls == []


def test_the_card_says_what_the_run_found(run: Path, tmp_path: Path) -> None:
    import yaml

    staged = stage(str(run), "ana/small", tmp_path / "staged", check=0, license_id="mit")
    verdict = json.loads((run / "verdict.json").read_text())["heldout"]
    assert verdict["line"] in staged.card and "95 % interval" in staged.card
    assert "![Curves of the run](curves.png)" in staged.card
    assert (tmp_path / "staged" / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    metadata = yaml.safe_load(staged.card.split("---")[1])
    assert metadata["license"] == "mit" and metadata["library_name"] == "transformers"
    [result] = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(100 * verdict["comparison"]["after"], 2)
    gain = result["metrics"][0]["args"]["gain"] if "args" in result["metrics"][0] else None
    assert gain == [round(100 * verdict["comparison"][key], 2) for key in ("low", "high")]
    assert "base_model" not in metadata and "datasets" not in metadata  # folders on this machine
    assert "No significant change on held-out problems" in staged.card
    assert 'from_pretrained("ana/small")' in staged.card and "boxed" in staged.card


def test_the_cards_python_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = stage(str(run), "ana/small", tmp_path / "ana" / "small", check=0)
    (tmp_path / "ana" / "small" / "README.md").unlink()
    code = staged.card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "card", "exec"), {})  # noqa: S102 (the code is ours)


def test_the_recipe_on_the_card_is_the_runs_without_this_machine(run: Path, tmp_path: Path) -> None:
    from mathgrpo.config.load_recipe import recipe_from_toml
    from mathgrpo.config.recipe import Recipe

    recipe = recipe_of_run(run)
    text = public_recipe(recipe)
    assert str(run.parents[1]) not in text and "output_dir" not in text
    (tmp_path / "card.toml").write_text(text)
    again = recipe_from_toml(Recipe, tmp_path / "card.toml")
    assert again.grpo == recipe.grpo and again.optimizer == recipe.optimizer and again.run.seed == recipe.run.seed
    assert again.rewards == {"my.py:vowels": 1.0} and again.problems.source == "problems.jsonl"
    assert data_name(recipe) == "problems.jsonl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ana/x/model", "model"), ("~/data/a.jsonl", "a.jsonl"), ("runs/x", "runs/x"), ("C:\\ana\\m", "m"),
        ("--set model.path=/home/ana/m --dry-run", "--set model.path=m --dry-run"), ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("../here/there", "there"), ("3 + 4 / 2", "3 + 4 / 2"),
    ],
)  # fmt: skip
def test_local_paths_become_their_last_part(text: str, expected: str) -> None:
    assert without_folders(text) == expected


def test_an_adapter_over_a_local_folder_is_not_published(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its base model is a folder on this machine"):
        stage(str(run), "small", tmp_path / "staged", kind="adapter", check=0)


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-x", "x--y", "é"])
def test_a_wrong_name_is_told_before_any_work(name: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no repository name"):
        stage(str(run), name, tmp_path / "staged", check=0)


def test_a_model_without_a_run_has_no_card(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="belongs to no run"):
        stage(str(run.parents[1] / "model"), "small", tmp_path / "staged", check=0)


def test_without_a_licence_the_card_claims_none_and_the_notes_say_so(run: Path, tmp_path: Path) -> None:
    staged = stage(str(run), "small", tmp_path / "staged", check=0)
    assert "license:" not in staged.card.split("---")[1] and "No licence is named" in staged.card
    assert any("--license" in line for line in staged_lines(staged, private=True))


def test_a_strange_file_stops_an_upload(run: Path, tmp_path: Path, hub: RecordingHub) -> None:
    staged = stage(str(run), "small", tmp_path / "staged", check=0)
    (tmp_path / "staged" / "rollouts.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"rollouts.jsonl: is no file of an exported model"):
        upload(staged, private=True)
    assert "upload_folder" not in [name for name, _ in hub.calls]


def test_a_checkpoint_in_the_middle_is_named_by_its_step(run: Path) -> None:
    found = find_source(str(run / "checkpoints" / "step-2"))
    assert (found.name, found.step, found.run is not None) == ("small-step-2", 2, True)


def without_system_turns(template: str) -> str:
    """Return a chat template that refuses system turns, as Gemma's does."""
    return "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + template


@pytest.mark.parametrize("kind", ["template", "none", "no system", "parts alone", "told"])
def test_the_cards_example_asks_as_the_run_did(kind: str) -> None:
    from dataclasses import replace

    from fakes import CHAT_TEMPLATE, tiny_tokenizer
    from mathgrpo.formats import get_format
    from mathgrpo.formats.chat import encode_prompt
    from mathgrpo.publishing.card import EXAMPLE, asking_code
    from mathgrpo.types import Problem

    tokenizer = tiny_tokenizer(chat_template=kind != "none")
    if kind == "no system":
        tokenizer.chat_template = without_system_turns(CHAT_TEMPLATE)
    if kind == "parts alone":
        tokenizer.chat_template = CHAT_TEMPLATE.replace("message.content", "message.content[0].text")
    told = {"enable_thinking": False, "level": "low"} if kind == "told" else {}
    if kind == "told":
        tokenizer.chat_template += "{% if enable_thinking is false %}{{ level }}{% endif %}"
    fmt, names = replace(get_format("xml"), chat_template_kwargs=told), {"tokenizer": tokenizer}
    exec(compile(asking_code(tokenizer, fmt), "card", "exec"), names)  # noqa: S102 (the code is ours)
    expected = encode_prompt(tokenizer, Problem(EXAMPLE, ""), fmt).ids
    assert tuple(names["inputs"]["input_ids"][0].tolist()) == expected


@pytest.mark.parametrize("start", ["a hub model", "new weights"])
def test_a_supervised_run_is_not_said_to_be_trained_with_grpo(start: str, run: Path, tmp_path: Path) -> None:
    import tomllib

    from mathgrpo.config import recipe_to_toml
    from mathgrpo.config.load_recipe import validated
    from mathgrpo.config.sft_recipe import SftRecipe
    from mathgrpo.evaluation import read_evaluation, write_evaluation

    made, path = tmp_path / "made", "some/model" if start == "a hub model" else ""
    model = Path(shutil.copytree(run.parents[1] / "model", made / "checkpoints" / "step-7"))
    assert (model / "config.json").is_file()
    problems = {"source": "ana/sums", "heldout_size": 8}
    recipe = validated(SftRecipe, {"model": {"path": path}, "problems": problems, "stages": [{"tokens": 5}]})
    (made / "config.toml").write_text(recipe_to_toml(recipe))
    (made / "run.json").write_text(json.dumps({"status": "finished", "steps_done": 7}))
    write_evaluation(read_evaluation(run, "after"), made, "after")
    card = stage(str(made), "small", tmp_path / "staged", check=0).card
    assert "GRPO" not in card and "- grpo" not in card and "- sft" in card
    start = "`some/model`" if path else "new weights"
    assert f"trained on worked solutions (supervised) from {start} (all weights) on ana/sums" in card
    assert "license:" not in card.split("---")[1], "the starter was not its base"
    assert "Not known: there is no evaluation before" in card and "held-out problems solved, 95 % interval" in card
    assert "`mathgrpo sft FILE`" in card
    shown = tomllib.loads(card.split("```toml\n")[1].split("```")[0])
    assert shown["stages"][0]["tokens"] == 5 and "rewards" not in shown and "grpo" not in shown


def test_an_earlier_checkpoints_card_has_its_own_numbers_and_none_of_the_last_ones(run: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from mathgrpo.evaluation import read_evaluation, write_evaluation

    copy = Path(shutil.copytree(run, tmp_path / "runs" / "copy"))
    # Evaluations that tell the three apart: none right before, five of eight after step 2, all after the last.
    for name, right in (("before", 0), ("step-2", 5), ("after", 8)):
        found = read_evaluation(run, name)
        records = tuple(
            replace(record, greedy=replace(record.greedy, verdict="correct" if i < right else "wrong"))
            for i, record in enumerate(found.records)
        )
        write_evaluation(replace(found, records=records), copy, name)
    card = stage(str(copy / "checkpoints" / "step-2"), "small", tmp_path / "two", check=0).card
    assert "held-out accuracy 0.0 % → 62.5 %" in card and "100.0 %" not in card.split("## How to use")[0]
    assert "\n2 steps on " in card
    (copy / "eval" / "step-2.json").unlink()
    card = stage(str(copy / "checkpoints" / "step-2"), "small", tmp_path / "none", check=0).card
    assert "Not known: there is no evaluation before training and of these weights" in card
    assert "model-index" not in card and "100.0 %" not in card
    card = stage(str(copy), "small", tmp_path / "last", check=0).card
    assert "held-out accuracy 0.0 % → 100.0 %" in card and "\n3 steps on " in card
