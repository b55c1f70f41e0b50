"""docs/rewards.md says of every reward what the catalogue says, and the suites that it proposes are accepted."""

import re
import tomllib
from pathlib import Path

import pytest

from mathgrpo.formats import FORMATS, get_format
from mathgrpo.rewards import CATALOGUE, build_suite
from mathgrpo.rewards.catalogue_page import catalogue_lines, fact, pays, range_words, with_catalogue
from reward_suites import GIST_WEIGHTS, MULTI_WEIGHTS, REFERENCE_WEIGHTS, SOUND_WEIGHTS, STEP_WEIGHTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"
TEXT = PAGE.read_text(encoding="utf-8")
SUITES = re.findall(r"^\| [^|]+ \| (`\w+`|any) \| (`\w+ = .*) \|$", TEXT, re.MULTILINE)


def test_the_page_holds_the_catalogue() -> None:
    assert with_catalogue(TEXT) == TEXT, "run: python -m mathgrpo.rewards.catalogue_page docs/rewards.md"


def test_every_reward_has_all_its_facts_on_the_page() -> None:
    for name, entry in CATALOGUE.items():
        block = TEXT.split(f"**`{name}`** pays ")[1].split("**`")[0]
        assert pays(entry) in block and fact(entry, "Gaming") in block and fact(entry, "Source") in block
        assert f"Range: {range_words(entry)}" in block
        assert all(
            f"`reward_settings.{name}.{key}`" in block
            for key in (type(entry.settings).model_fields if entry.settings else ())
        )
        assert any(f"  {name} " in line and pays(entry) in line for line in catalogue_lines())


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="once each"):
        with_catalogue("# Rewards\n")


@pytest.mark.parametrize(("fmt", "rewards"), SUITES)
def test_the_proposed_suites_are_accepted(fmt: str, rewards: str) -> None:
    name = fmt.strip("`")
    weights = tomllib.loads("\n".join(rewards.replace("`", "").split(", ")))
    build_suite(weights, get_format("xml" if name == "any" else name), max_new_tokens=64)


def test_there_are_suites_and_the_named_ones_are_accepted() -> None:
    assert len(SUITES) >= 8 and {fmt.strip("`") for fmt, _ in SUITES} <= {*FORMATS, "any"}
    for weights in (SOUND_WEIGHTS, STEP_WEIGHTS, REFERENCE_WEIGHTS, MULTI_WEIGHTS, GIST_WEIGHTS):
        build_suite(weights, get_format("xml"))
    assert [len(w) for w in (REFERENCE_WEIGHTS, MULTI_WEIGHTS, GIST_WEIGHTS)] == [5, 4, 5]


def test_the_pages_own_function_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(def short.*?)```", TEXT, re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(code)
    name = f"{tmp_path}/my_rewards.py:short"
    suite = build_suite({"correct": 1.0, name: 0.1}, get_format("xml"), {name: {"limit": 3}})
    scores = suite.score(["?"] * 2, ["abc", "abcd"], {"answer": ["1"] * 2, "question": ["?"] * 2})
    assert scores.parts[name] == (1.0, 0.0)
