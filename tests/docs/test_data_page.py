"""What docs/data.md says of sources, splits and formats is what happens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mathgrpo.cli.app import app
from mathgrpo.config import load_recipe
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.formats import FORMATS, get_format
from mathgrpo.problems.origin import load_problem_sets
from mathgrpo.problems.table import READERS
from mathgrpo.rewards import recipe_suite
from mathgrpo.rewards.pre_run_check import require_judged

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
(ROWS,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_the_rows_are_problems_and_pass_the_check(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(ROWS, encoding="utf-8")
    sets = load_problem_sets(ProblemsSection(source=str(path), heldout_size=1))
    problems = {problem.answer: problem for problem in (*sets.train, *sets.heldout)}
    assert set(problems) == {"19", "12"}
    assert problems["12"].solution == "4 * 3 = 12 pounds." and problems["19"].solution is None
    result = CliRunner().invoke(app, ["check-data", str(path)])
    assert result.exit_code == 0 and "2 rows: 2 pass, 0 fail" in result.output


@pytest.mark.parametrize(
    "gold", re.findall(r"`([^`]+)`", PAGE.split("Gold answers are", 1)[1].split(", compared by", 1)[0])
)
def test_the_golds_named_pass_the_check(gold: str, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"question": "How much?", "answer": gold}))
    assert CliRunner().invoke(app, ["check-data", str(path)]).exit_code == 0


def test_a_gold_that_cannot_be_graded_is_told(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"question": "How much?", "answer": "17 18"}))
    result = CliRunner().invoke(app, ["check-data", str(path)])
    assert result.exit_code == 1 and "row 1" in result.output


def test_every_format_and_every_kind_of_file_is_named() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ", PAGE.split("## Formats", 1)[1], re.MULTILINE)
    assert sorted(rows) == sorted(FORMATS)
    assert all(f"{suffix}`" in PAGE or f'{suffix}"`' in PAGE for suffix in READERS)


def test_the_held_out_problems_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"What is {i} + 1?", "answer": str(i + 1)}) for i in range(20)]
    chosen = []
    for name, lines in (("one", rows), ("two", rows[::-1])):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join([*lines, lines[0].upper().replace("QUESTION", "question").replace("ANSWER", "answer")])
        )
        sets = load_problem_sets(ProblemsSection(source=str(tmp_path / f"{name}.jsonl"), heldout_size=5))
        assert any("1 repeated" in note for note in sets.notes), "case and spacing make no new problem"
        assert not {p.id for p in sets.train} & {p.id for p in sets.heldout}
        chosen.append({problem.id for problem in sets.heldout})
    assert chosen[0] == chosen[1] and len(chosen[0]) == 5


def test_the_prompt_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    exec(compile(code, "data.md", "exec"), {"__name__": "example"})  # noqa: S102  our own documentation
    shown = capsys.readouterr().out
    assert "What is 2 + 2?" in shown and "<reasoning>" in shown


def test_the_countdown_example_is_a_recipe_about_countdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = PAGE.split("## Countdown", 1)[1].split("\n## ", 1)[0]
    (code,), (toml,) = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "toml"))
    exec(compile(code, "data.md", "exec"), {"__name__": "example"})  # noqa: S102  our own documentation
    Path("countdown.toml").write_text(toml)
    recipe = load_recipe("countdown.toml")
    sets, suite = load_problem_sets(recipe.problems), recipe_suite(recipe, get_format("xml"))
    assert len(sets.heldout) == 200 and require_judged(suite, sets.heldout) == ""
    problem = next(
        each
        for each in sets.heldout
        if each.columns["target"] == sum(each.columns["nums"][:2]) - each.columns["nums"][2]
    )
    columns = {name: [value] * 2 for name, value in {**problem.columns, "answer": problem.answer}.items()}
    texts = [
        suite.fmt.write("work", answer) for answer in ("{} + {} - {}".format(*problem.columns["nums"]), problem.answer)
    ]
    scores = suite.score(["?"] * 2, texts, columns)
    assert scores.totals == (1.1, 0.1) and [graded.verdict for graded in scores.grades] == ["correct", "wrong"]
    Path("countdown.toml").write_text(toml.partition("[evaluation]")[0])
    assert recipe_suite(load_recipe("countdown.toml"), get_format("xml")).correct == suite.correct, "by itself"
