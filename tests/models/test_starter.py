"""The starter model that ships in the package is what its card says."""

import json
from pathlib import Path

import pytest

from mathgrpo.config.recipe import ModelSection
from mathgrpo.evaluation import evaluate
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.models import Policy, load_policy, starter_path
from mathgrpo.problems.generated import generate_heldout
from mathgrpo.rollout import build_engine

XML = get_format("xml")


@pytest.fixture(scope="module")
def starter() -> Policy:
    return load_policy(ModelSection(path="starter"), "cpu", train=False)


def test_it_is_small_and_safe_to_load(starter: Policy) -> None:
    files = list(starter_path().iterdir())
    assert sum(file.stat().st_size for file in files) < 20_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja", ".md"}
    assert starter.model.num_parameters() == 2_402_688 < 8_000_000
    assert json.loads((starter_path() / "config.json").read_text())["model_type"] == "qwen2"


@pytest.mark.usefixtures("generator")
def test_digits_are_single_and_the_instruction_is_one_token(starter: Policy) -> None:
    assert starter.tokenizer.tokenize("12*35=420") == ["1", "2", "*", "3", "5", "=", "4", "2", "0"]
    (problem,), _ = generate_heldout(1, seed=17)
    assert len(encode_prompt(starter.tokenizer, problem, XML).ids) < 110


@pytest.mark.usefixtures("generator")
def test_it_can_reason_but_does_not_always(starter: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATHGRPO_CACHE", str(tmp_path))
    problems, _ = generate_heldout(150, seed=17)
    summary = evaluate(build_engine(starter), starter, problems, XML, max_new_tokens=96).summary()
    assert 0.30 < summary["accuracy"] < 0.60
    assert 0.25 < summary["worked_rate"] < 0.60
    assert summary["format_rate"] > 0.95
