"""Exports load in transformers, PEFT and here, say what the trained model says, and a broken one is refused."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError
from mathgrpo.models import load_policy
from mathgrpo.publishing import export, export_run
from mathgrpo.publishing.export_check import make_probes, require_same_scores, score
from mathgrpo.publishing.export_files import require_allowed
from mathgrpo.publishing.source import find_source
from publishing.published import trained_run

IDS = torch.tensor([[7, 19, 30, 44, 8, 61]])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("full"), lora=False)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("lora"), lora=True, tied=False)


def trained_logits(run: Path) -> torch.Tensor:
    policy = load_policy(ModelSection(path=str(run), dtype="float32"), "cpu", train=False)
    with torch.no_grad():
        logits: torch.Tensor = policy.model(input_ids=IDS).logits
    return logits


def plain_logits(folder: Path, **options: Any) -> torch.Tensor:
    """Load as anybody would: transformers alone."""
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, **options).eval()(input_ids=IDS).logits
    return logits


def refused(run: Path, folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        export_run(str(run), folder, **options)
    assert "\n" not in str(caught.value)
    assert not folder.exists() and not list(folder.parent.glob(".*")), "something half-written stayed"
    return str(caught.value)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_merged_export_is_the_trained_model_in_plain_transformers(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    run = request.getfixturevalue(kind)
    done = export_run(str(run), tmp_path / "out")
    torch.testing.assert_close(plain_logits(tmp_path / "out"), trained_logits(run), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(trained_logits(run), plain_logits(run.parents[1] / "model"), atol=0.05), "nothing trained"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template and tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "export.json"} <= names
    assert not any(word in name for name in names for word in ("optimizer", "training_state", "adapter", "rollouts"))
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["step"] == 3 and record["format"] == "boxed" and record["dtype"] == "float32"
    assert record["checks"]["logprobs"]["mean"] < 1e-4 and record["checks"]["logprobs"]["tokens"] > 20
    assert record["checks"]["accuracy"]["problems"] == 8 and record["checks"]["accuracy"]["difference"] == 0.0
    for name, facts in record["files"].items():
        assert (tmp_path / "out" / name).stat().st_size == facts["bytes"], name
    assert done.folder == tmp_path / "out" and "bit for bit" in done.lines[1]


def test_where_a_tokenizer_once_lay_is_not_handed_on(full: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(full, run, symlinks=True)
    for config in run.rglob("tokenizer_config.json"):
        places = dict.fromkeys(("name_or_path", "_name_or_path"), "/home/ana/secret")
        config.write_text(json.dumps(json.loads(config.read_text()) | places))
    export_run(str(run), tmp_path / "out", check=0)
    for path in (tmp_path / "out").iterdir():
        assert b"/home/ana" not in path.read_bytes(), path.name


def test_the_default_place_is_in_the_run_and_an_older_checkpoint_can_be_named(full: Path) -> None:
    done = export_run(str(full / "checkpoints" / "step-2"))
    assert done.folder == full / "export" / "merged" and done.record["name"] == "small-step-2"
    assert done.record["checks"]["accuracy"]["problems"] == 8  # compared with the run's evaluation of step 2
    with pytest.raises(UserError, match=r"--to .*export/merged: exists already"):
        export_run(str(full))
    shutil.rmtree(full / "export")


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_16_bit_weights_are_the_trained_ones_rounded(lora: Path, tmp_path: Path, name: str) -> None:
    export_run(str(lora), tmp_path / "exact")
    done = export_run(str(lora), tmp_path / "half", dtype=name)
    exact, half = (load_file(tmp_path / f / "model.safetensors") for f in ("exact", "half"))
    assert all(torch.equal(half[key], exact[key].to(getattr(torch, name))) for key in exact)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == name
    assert done.record["checks"]["logprobs"]["mean"] > 0


def test_an_adapter_export_loads_with_peft_on_its_base(lora: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    export_run(str(lora), tmp_path / "out", kind="adapter")
    base = AutoModelForCausalLM.from_pretrained(lora.parents[1] / "model")
    with torch.no_grad():
        logits = PeftModel.from_pretrained(base, tmp_path / "out").eval()(input_ids=IDS).logits
    torch.testing.assert_close(logits, trained_logits(lora), atol=1e-5, rtol=1e-5)
    assert sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors")) < 60_000


def test_a_run_without_an_adapter_has_none_to_export(full: Path, tmp_path: Path) -> None:
    assert "has no adapter" in refused(full, tmp_path / "out", kind="adapter")


def test_a_zip_is_the_same_bytes_for_the_same_files_and_unpacks_to_the_model(lora: Path, tmp_path: Path) -> None:
    from mathgrpo.publishing.export_files import write_zip

    done = export_run(str(lora), tmp_path / "out", kind="zip")
    [archive] = (tmp_path / "out").glob("*.zip")
    assert archive.name == "small.zip" and (tmp_path / "out" / "export.json").is_file()
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path / "unpacked")
    assert names == sorted(names) and {n.split("/")[0] for n in names} == {"small"}
    assert {"small/config.json", "small/tokenizer.json", "small/chat_template.jinja"} <= set(names)
    torch.testing.assert_close(
        plain_logits(tmp_path / "unpacked" / "small"), trained_logits(lora), atol=1e-4, rtol=1e-4
    )
    for path in (tmp_path / "unpacked" / "small").iterdir():
        os.utime(path, (1, 1))
    write_zip(tmp_path / "unpacked" / "small", tmp_path / "again.zip", "small")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert done.record["kind"] == "zip"


def corrupting(change: Any) -> Any:
    """Return a save function that writes the model and then changes one tensor on disk."""
    save = export.save_merged

    def saved(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        prints = save(model, tokenizer, folder, dtype)
        tensors = load_file(folder / "model.safetensors")
        change(tensors["model.layers.1.mlp.down_proj.weight"])
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return prints

    return saved


def flip_one(tensor: torch.Tensor) -> None:
    tensor[0, 0] += 1e-3


def test_one_number_changed_on_disk_is_refused(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "save_merged", corrupting(flip_one))
    text = refused(full, tmp_path / "out")
    assert "model.layers.1.mlp.down_proj.weight is not on disk as it is in memory" in text


def test_a_truncated_file_is_refused(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = export.save_merged

    def cut(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        prints = save(model, tokenizer, folder, dtype)
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
        return prints

    monkeypatch.setattr(export, "save_merged", cut)
    assert "cannot be read back" in refused(full, tmp_path / "out")


def test_a_merge_that_forgot_the_adapter_is_refused(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are then exactly what was in memory; only the scores tell."""
    monkeypatch.setattr(export, "merge", lambda model: model.unload())
    text = refused(lora, tmp_path / "out")
    assert "the exported model is not the trained one" in text and "nats" in text


def test_a_model_that_solves_less_is_refused(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run says it solved all its problems; this model solves none of them."""
    from dataclasses import replace

    from mathgrpo.publishing import source as where

    found = find_source(str(full))
    assert found.evaluation is not None
    right = tuple(replace(r, greedy=replace(r.greedy, verdict="correct")) for r in found.evaluation.records)
    lie = replace(found, evaluation=replace(found.evaluation, records=right))
    monkeypatch.setattr(export, "find_source", lambda model: lie)
    text = refused(full, tmp_path / "out")
    assert "solves 0.0 % of 8 held-out problems, the run's model 100.0 %" in text
    assert (
        export_run(str(full), tmp_path / "out", check=0).record["checks"]["accuracy"]
        == "not solved again, as asked for"
    )
    assert where is not None


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not the trained one"):
        require_same_scores(torch.zeros(4), torch.tensor([0.0, float("nan"), 0.0, 0.0]), torch.float32)
    assert require_same_scores(torch.zeros(4), torch.full((4,), 1e-4), torch.float32).tokens == 4


def test_scores_are_those_of_the_softmax(full: Path) -> None:
    policy = load_policy(ModelSection(path=str(full), dtype="float32"), "cpu", train=False)
    probes = make_probes(policy.tokenizer, __import__("mathgrpo.formats", fromlist=["x"]).get_format("boxed"), None)
    prompt, completion = probes[0]
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logprobs = torch.log_softmax(policy.model(input_ids=ids).logits[0].float(), -1)
    expected = [float(logprobs[len(prompt) + i - 1, t]) for i, t in enumerate(completion)]
    assert score(policy.model, [probes[0]]).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(__import__("importlib.util").util.find_spec("bitsandbytes") is None, reason="no bitsandbytes")
def test_a_4bit_run_is_merged_into_the_full_precision_base(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "q", lora=True, quantization="nf4")
    done = export_run(str(run), tmp_path / "out", check=0)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(run.parents[1] / "model" / "model.safetensors")
    adapter = load_file(run / "checkpoints" / "step-3" / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(tensors[f"{name}.weight"], base[f"{name}.weight"] + 2.0 * b @ a, atol=1e-6, rtol=1e-6)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    apart = done.record["checks"]["distance_from_4bit"]
    assert apart["mean"] > 10 * done.record["checks"]["logprobs"]["mean"] and apart["mean"] > 1e-3
    [note] = [note for note in done.record["notes"] if "4-bit" in note]
    assert f"{apart['mean']:.2g} nats apart" in note


CONVERTER = """
import struct, sys
model, outfile = sys.argv[1], sys.argv[sys.argv.index("--outfile") + 1]
assert (__import__("pathlib").Path(model) / "config.json").is_file()
tensors = 0 if "{mode}" == "empty" else 26
if "{mode}" == "fail":
    sys.exit("ERROR: this architecture is not supported")
open(outfile, "wb").write(b"GGUF" + struct.pack("<IQQ", 3, tensors, 5) + sys.argv[-1].encode())
"""


def converter(folder: Path, mode: str) -> Path:
    path = folder / f"{mode}.py"
    path.write_text(CONVERTER.format(mode=mode))
    return path


def test_gguf_is_made_by_the_converter_the_user_has(full: Path, tmp_path: Path) -> None:
    done = export_run(str(full), tmp_path / "out", kind="gguf", dtype="bfloat16", converter=converter(tmp_path, "good"))
    assert (tmp_path / "out" / "small.gguf").read_bytes().endswith(b"bf16")
    assert done.record["checks"]["gguf_tensors"] == 26 and {p.name for p in (tmp_path / "out").iterdir()} == {
        "small.gguf", "export.json",
    }  # fmt: skip


def test_gguf_without_or_with_a_failing_converter_is_one_line(full: Path, tmp_path: Path) -> None:
    assert f"mathgrpo export {full} --format gguf --converter" in refused(full, tmp_path / "out", kind="gguf")
    fails = converter(tmp_path, "fail")
    assert "this architecture is not supported" in refused(full, tmp_path / "out", kind="gguf", converter=fails)
    empty = converter(tmp_path, "empty")
    assert "no usable GGUF file" in refused(full, tmp_path / "out", kind="gguf", converter=empty)


def test_a_strange_file_is_named_not_left_out(full: Path, tmp_path: Path) -> None:
    export_run(str(full), tmp_path / "out", check=0)
    (tmp_path / "out" / "optimizer.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"optimizer.safetensors: is no file of an exported model"):
        require_allowed(tmp_path / "out")


def test_a_supervised_run_is_a_source_too(full: Path, tmp_path: Path) -> None:
    from mathgrpo.config import recipe_to_toml
    from mathgrpo.config.sft_recipe import SftRecipe

    run = tmp_path / "sft"
    shutil.copytree(full / "checkpoints" / "step-3", run / "checkpoints" / "step-3")
    (run / "config.toml").write_text(recipe_to_toml(SftRecipe()))
    found = find_source(str(run))
    assert found.recipe.format.name == SftRecipe().format.name and found.evaluation is None
    done = export_run(str(run), tmp_path / "out")
    assert "has no evaluation of these weights" in done.record["checks"]["accuracy"]
    assert done.record["checks"]["logprobs"]["tokens"] > 10


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "not a model folder" in refused(tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize(
    "command",
    [
        ["solve", "{out}", "What is 2 + 2?", "--max-new-tokens", "8"],
        ["eval", "{out}", "--limit", "4", "--max-new-tokens", "8"],
    ],
)
def test_an_export_works_with_the_other_commands(
    command: list[str], full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    from mathgrpo.cli import main
    from mathgrpo.cli.options import run_recipe

    if command[0] == "eval":
        request.getfixturevalue("generator")
    out = tmp_path / "elsewhere"
    for arguments in (["export", str(full), "--to", str(out), "--check", "4"], [c.format(out=out) for c in command]):
        monkeypatch.setattr(sys, "argv", ["mathgrpo", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, capsys.readouterr()
    said = capsys.readouterr().out
    assert "exported" in said and ("answer:" in said or "accuracy" in said)
    assert run_recipe(str(out)).format.name == "boxed"  # the export knows its own format


def test_a_place_that_cannot_be_written_is_one_line(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--to .*/file/out: cannot be written \((Not a directory|File exists)\)"):
        export_run(str(full), tmp_path / "file" / "out")

    def no_space(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(export, "save_merged", no_space)
    assert "cannot be written (I/O error: No space left on device" in refused(full, tmp_path / "out")
