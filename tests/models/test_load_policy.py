"""Loading policies from real folders, and the one line a user gets when that fails."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config.recipe import LoraSection, ModelSection
from mathgrpo.errors import UserError
from mathgrpo.models import load_policy, resolve_device, starter_path
from mathgrpo.models import locate as sources


def save(folder: Path, model: Any = None, tokenizer: Any = None) -> Path:
    (model or tiny_model()).save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny") / "model")


def load(path: Path | str, *, train: bool = False, **fields: Any) -> Any:
    return load_policy(ModelSection(path=str(path), **fields), "cpu", train=train)


def message(path: Path | str, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **fields)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_saved_folder_comes_back_equal(saved: Path) -> None:
    policy = load(saved)
    for name, tensor in tiny_model().state_dict().items():
        assert torch.equal(policy.model.state_dict()[name], tensor), name
    assert policy.name == "model" and policy.device == "cpu" and policy.max_context == 1024
    assert policy.compute_dtype == torch.float32 and not policy.model.training
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())


def test_masters_are_float32_even_if_saved_in_bfloat16(tmp_path: Path) -> None:
    folder = save(tmp_path / "half", tiny_model().bfloat16())
    policy = load(folder, train=True, dtype="bfloat16")
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in policy.model.parameters())
    assert policy.compute_dtype == torch.bfloat16
    with policy.autocast():
        assert policy.model(input_ids=torch.tensor([[7, 8]])).logits.dtype == torch.bfloat16
    assert next(load(folder, dtype="bfloat16").model.parameters()).dtype == torch.bfloat16


def test_every_end_id_is_found(tmp_path: Path) -> None:
    """Generation config 1 and 9, tokenizer <|end|> = 1, and the template closes turns with <|user|> = 3."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.generation_config.eos_token_id = [9, 1]
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|user|>\n{% endfor %}"
    assert load(save(tmp_path / "ends", model, tokenizer)).eos_ids == (1, 3, 9)


def test_a_template_that_ends_a_turn_with_plain_text_adds_no_end_id(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\nnext{% endfor %}"
    assert load(save(tmp_path / "plain", None, tokenizer)).eos_ids == (1,)


def test_a_tokenizer_without_template_or_pad_token_works(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(chat_template=False)
    tokenizer.pad_token = None
    policy = load(save(tmp_path / "gpt2", tiny_model("gpt2"), tokenizer))
    assert policy.eos_ids == (1,) and policy.tokenizer.pad_token_id == 1 and policy.max_context == 512


def test_a_run_folder_means_its_last_complete_checkpoint(saved: Path, tmp_path: Path) -> None:
    for step, seed in ((2, 2), (10, 10)):
        save(tmp_path / "run" / "checkpoints" / f"step-{step}", tiny_model(seed=seed))
    (tmp_path / "run" / "checkpoints" / "step-30").mkdir()
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", tmp_path / "run" / "checkpoints" / "step-10"):
        weight = load(path).model.lm_head.weight
        assert torch.equal(weight, tiny_model(seed=10).lm_head.weight)


def test_an_adapter_checkpoint_loads_for_use_and_for_training(saved: Path, tmp_path: Path) -> None:
    lora = LoraSection(r=2, alpha=4)
    policy = load(saved, train=True, lora=lora)
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    policy.model.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[7, 8, 9]])
    expected = policy.model(input_ids=ids).logits.detach()
    assert not torch.allclose(expected, load(saved).model(input_ids=ids).logits)

    used = load(tmp_path / "adapter")
    resumed = load(tmp_path / "adapter", train=True, lora=lora)
    merged = load(tmp_path / "adapter", train=True)
    for other in (used, resumed, merged):
        torch.testing.assert_close(other.model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert [n for n, p in resumed.model.named_parameters() if p.requires_grad] == trained
    assert all(parameter.requires_grad for parameter in merged.model.parameters())
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    assert "r=2" in message(tmp_path / "adapter", train=True, lora=LoraSection(r=8, alpha=4))


def test_unknown_target_modules_are_named_with_the_present_ones(saved: Path) -> None:
    text = message(saved, train=True, lora=LoraSection(target_modules=("q_proj", "c_attn")))
    assert "model.lora.target_modules=c_attn" in text and "gate_proj" in text and "lm_head" not in text


def test_an_adapter_fits_gpt2s_transposed_layers(tmp_path: Path) -> None:
    folder = save(tmp_path / "gpt2", tiny_model("gpt2"))
    policy = load(folder, train=True, lora=LoraSection(r=2, target_modules=("c_attn",)))
    ids = torch.tensor([[7, 8, 9]])
    torch.testing.assert_close(policy.model(input_ids=ids).logits, tiny_model("gpt2")(input_ids=ids).logits)


def test_absent_and_wrong_paths_are_one_clear_line(saved: Path, tmp_path: Path) -> None:
    assert "no such folder" in message(tmp_path / "nothing")
    assert "no config.json" in message(tmp_path)
    assert "is a file" in message(saved / "config.json")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "no complete checkpoint" in message(tmp_path / "run")
    for text in (message(tmp_path / "nothing"), message(tmp_path), message(saved / "config.json")):
        assert text.startswith("model.path=")


def test_a_damaged_weights_file_is_one_clear_line(saved: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(saved, tmp_path / "broken"))
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "damaged" in message(broken)
    (broken / "model.safetensors").write_bytes(b"nonsense")
    assert "damaged" in message(broken)
    (broken / "model.safetensors").unlink()
    assert message(broken).startswith("model.path=")


def test_pickled_weights_are_not_read(saved: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(saved, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), pickled / "pytorch_model.bin")
    assert "safetensors" in message(pickled)


def test_missing_weights_do_not_become_random_ones(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    partial = Path(shutil.copytree(saved, tmp_path / "partial"))
    tensors = load_file(partial / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in message(partial)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(50)])
    assert "tokens but the model only" in message(save(tmp_path / "large", None, tokenizer))


def test_other_kinds_of_models_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

    tiny = {"vocab_size": 120, "num_attention_heads": 2, "num_heads": 2}
    t5 = T5ForConditionalGeneration(T5Config(d_model=16, d_ff=16, d_kv=8, num_layers=1, **tiny))
    bert = BertForMaskedLM(BertConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, **tiny))
    assert "T5ForConditionalGeneration is not a decoder-only" in message(save(tmp_path / "t5", t5))
    assert "BertForMaskedLM is not a decoder-only" in message(save(tmp_path / "bert", bert))


def test_remote_code_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "remote"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('this code must never run')")
    assert message(folder).startswith("model.path=")


def test_the_starter_is_package_data_and_says_so_when_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert starter_path().parts[-3:] == ("mathgrpo", "models", "starter")
    monkeypatch.setattr(sources, "starter_path", lambda: tmp_path / "none")
    assert "starter model is missing" in message("starter")


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"run\.device=cuda"):
            resolve_device("cuda")


def test_a_hub_id_without_network_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.perf_counter()
    with pytest.raises(UserError, match=r"^model\.path=nobody/nothing: cannot be loaded [^\n]*$"):
        load_policy(ModelSection(path="nobody/nothing"), "cpu", train=False)
    assert time.perf_counter() - started < 5.0 and not constants.HF_HUB_OFFLINE


@pytest.fixture
def model_with_code(tmp_path: Path) -> Path:
    """A model folder whose architecture is a Python file inside it; running that file leaves a mark."""
    folder = tmp_path / "own_code"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        f"Path({str(tmp_path / 'mark')!r}).touch()\n"
        "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n"
        "class OwnForCausalLM(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_that_comes_with_a_model_runs_only_when_the_model_is_named(model_with_code: Path) -> None:
    path, mark = str(model_with_code), model_with_code.parent / "mark"
    with pytest.raises(UserError, match=r"^model\.path=[^\n]*code of its own[^\n]*model\.trust_remote_code=[^\n]*$"):
        load_policy(ModelSection(path=path), "cpu", train=False)
    with pytest.raises(UserError, match=r"^model\.trust_remote_code=other/model: is not the model"):
        load_policy(ModelSection(path=path, trust_remote_code="other/model"), "cpu", train=False)
    assert not mark.exists()
    policy = load_policy(ModelSection(path=path, trust_remote_code=path), "cpu", train=False)
    assert mark.exists() and type(policy.model).__name__ == "OwnForCausalLM"


def test_a_folder_without_its_tokenizer_file_is_told(tmp_path: Path) -> None:
    """transformers would make up an empty tokenizer, and the model would be asked nothing."""
    from mathgrpo.models import starter_path

    folder = Path(shutil.copytree(starter_path(), tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"^model\.path=[^\n]*its tokenizer reads no text: a file of it is missing"):
        load_policy(ModelSection(path=str(folder)), "cpu", train=False)


def test_a_run_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mathgrpo.models.locate import locate_model

    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.toml").touch()
    with pytest.raises(UserError, match=r"^model\.path=runs/onne: no such folder; the runs in runs are: one, two$"):
        locate_model("runs/onne")
    assert locate_model("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"
