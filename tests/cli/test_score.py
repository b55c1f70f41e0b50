"""mathgrpo score: what each reward pays and why, through the command line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_model, tiny_tokenizer

RIGHT = "<reasoning>\n9 * 2 = 18\n</reasoning>\n<answer>\n18\n</answer>\n"


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `mathgrpo score` in this process; returns (exit code, output, errors)."""
    from mathgrpo.cli import main

    def call(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mathgrpo", "score", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with a small source, a tokenizer, and a user's reward."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "hint": f"h{i}"} for i in range(40)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "my.py").write_text(
        'def hinted(completions, hint=None, **columns):\n    """Pays for the hint."""\n'
        "    return [None if hint is None else float(h in c[0]['content']) for c, h in zip(completions, hint or [0])]\n"
    )
    file = tmp_path / "r.toml"
    file.write_text(
        f'[model]\npath = "{tmp_path}/model"\n[problems]\nsource = "{tmp_path}/problems.jsonl"\nheldout_size = 5\n'
        f'[rewards]\ncorrect = 1.0\nformat = 0.1\nsoft_overlong = 0.5\n"{tmp_path}/my.py:hinted" = 0.5\n'
        "[rollout]\nmax_new_tokens = 50\n"
    )
    return file


def test_a_completion_is_scored_part_by_part(score: Any) -> None:
    code, out, err = score("demo", "--answer", "18", "--text", RIGHT)
    assert (code, err) == (0, "") and all(len(line) <= 80 for line in out.splitlines())
    assert 'answer    "18": correct' in out
    shown = " ".join(out.split())
    assert 'correct 1.000 × 1 = 1.000 the answer "18" is the gold "18"' in shown
    assert "format 1.000 × 0.1 = 0.100 exactly the asked layout" in shown
    assert out.splitlines()[-1].split() == ["total", "1.100"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RIGHT.replace("18\n<", "19\n<"), ['the answer "19" is not the gold "18"', "pays right answers only"]),
        ("so #### 18", ["0.250", "<reasoning> is missing, </reasoning> is missing", "marked in another way"]),
        (
            "<answer>7</answer><answer>18</answer>",
            ["none in the format: ambiguous", "several answers"],
        ),
        (RIGHT.replace("18\n<", "18 or 19\n<"), ['"18 or 19" is refused: the gold is a number']),
        ("", ["none in the format: no_answer"]),
    ],
)
def test_the_reason_names_what_was_read_and_what_is_missing(score: Any, text: str, words: list[str]) -> None:
    code, out, _ = score("demo", "--answer", "18", "--text", text)
    shown = " ".join(out.split())
    assert code == 0 and all(word in shown for word in words), out


def test_verified_steps_are_named_line_by_line(score: Any) -> None:
    text = "<think>\n48/2 = 24\n48+24 = 72\n1+1 = 2\n72 + 1 = 74\n</think>\n\n<answer>72</answer>"
    settings = ["--set", "format.name=think", "--set", "rewards.correct=0.4", "--set", "rewards.format=0"]
    question = "She sold 48 clips, then half as many. How many?"
    code, out, _ = score(
        "demo",
        "--answer",
        "72",
        "--question",
        question,
        "--text",
        text,
        "--set",
        "rewards.verified_steps=0.6",
        *settings,
    )
    out = " ".join(out.split())
    assert code == 0
    assert '2 of 4 steps count (at most 3 pay): "48/2 = 24" true, and the answer follows from it' in out
    assert '"1 + 1 = 2" true, but its numbers come neither from the question' in out and '"72 + 1 = 74" false' in out


def test_a_file_or_standard_input_and_a_problem_of_the_recipe(score: Any, recipe: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, out, _ = score(recipe, "--problem", 2, "--json", stdin="<answer>")
    found = json.loads(out)
    text = f"<reasoning>\nr h{int(found['gold']) // 2}\n</reasoning>\n<answer>\n{found['gold']}\n</answer>\n"
    (tmp_path / "completion.txt").write_text(text)
    for arguments, stdin in (((tmp_path / "completion.txt",), ""), ((), text), (("-",), text)):
        code, out, err = score(recipe, *arguments, "--problem", 2, "--json", stdin=stdin)
        record = json.loads(out)
        assert (code, err) == (0, "") and record["question"].startswith("What is ")
        parts = {each["name"].rpartition(":")[2]: each for each in record["rewards"]}
        # the model's own tokens and the end token, against a limit of 50 and a cache of 10
        tokens = len(AutoTokenizer.from_pretrained(tmp_path / "model")(text, add_special_tokens=False)["input_ids"]) + 1
        assert record["tokens"] == tokens > 40
        assert parts["soft_overlong"]["value"] == pytest.approx(-min(tokens - 40, 10) / 10)
        assert (parts["hinted"]["value"], parts["hinted"]["why"]) == (1.0, "Pays for the hint.")
        assert record["total"] == pytest.approx(sum(each["pays"] for each in record["rewards"]))


def test_json_holds_what_the_table_shows(score: Any) -> None:
    _, out, _ = score("demo", "--answer", "18", "--text", RIGHT, "--json", "--set", "rewards.gist_xml_count=1")
    record = json.loads(out)
    assert (record["gold"], record["answer"], record["verdict"], record["format_strict"]) == (
        "18",
        "18",
        "correct",
        True,
    )
    assert [each["name"] for each in record["rewards"]] == ["correct", "format", "gist_xml_count"]
    assert record["rewards"][1] == {
        "name": "format", "value": 1.0, "weight": 0.1, "pays": 0.1, "low": 0, "high": 1,
        "why": "exactly the asked layout",
    }  # fmt: skip
    assert record["rewards"][2]["low"] is None and record["total"] == pytest.approx(1.6)


def test_further_columns_are_given_by_hand(score: Any) -> None:
    text = "<reasoning>\nr\n</reasoning>\n<answer>\n3 * 5 - 7\n</answer>\n"
    arguments = ["demo", "--answer", "8", "--text", text, "--set", "rewards.countdown=1"]
    _, out, _ = score(*arguments, "--column", "nums=[3, 5, 7]", "--column", "target=8")
    assert '"3 * 5 - 7" uses each number once and makes the target' in " ".join(out.split())
    _, out, _ = score(*arguments, "--column", "nums=[3, 5, 8]")
    assert "7 is too often or not given" in " ".join(out.split())
    _, out, _ = score(*arguments)
    assert "does not apply: the problem has no column nums" in " ".join(out.split())


def test_rewards_on_length_say_when_there_is_no_tokenizer(score: Any, recipe: Path) -> None:
    code, out, _ = score(recipe, "--answer", "18", "--text", RIGHT, "--set", "model.path=nobody/nothing")
    assert code == 0 and "does not apply: there are no token ids" in " ".join(out.split())


def test_every_reward_has_a_reason_for_every_kind_of_completion(score: Any) -> None:
    from mathgrpo.formats import get_format
    from mathgrpo.rewards import CATALOGUE, build_suite
    from mathgrpo.rewards.explained_score import explain
    from mathgrpo.types import Problem

    for name in ("xml", "working_out", "think", "boxed"):
        fmt = get_format(name)
        suite = build_suite(dict.fromkeys(CATALOGUE, 1.0), fmt, max_new_tokens=9)
        for problem in (Problem("9 times 2?", "18", columns={"nums": [9, 2], "target": 18}), Problem("?", "1/2")):
            for text in (
                "",
                "18",
                fmt.write("9*2 = 18", "18"),
                fmt.write("x", "many"),
                "\x1b[31m\ud800" * 50,
                RIGHT * 2,
            ):
                for ids in (None, [], [1] * 12):
                    explanation = explain(suite, problem, text, "?", ids)
                    assert [part.name for part in explanation.parts] == list(CATALOGUE)
                    assert all(part.why and "\n" not in part.why for part in explanation.parts)
                    assert all(part.value is not None or "not apply" in part.why for part in explanation.parts)


def test_the_list_names_every_reward(score: Any) -> None:
    from mathgrpo.rewards import CATALOGUE

    code, out, _ = score("--list")
    assert code == 0 and all(f"  {name} " in out for name in CATALOGUE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "RECIPE: nothing given"),
        (["demo", "--text", "x"], "--answer: nothing given"),
        (["no-such", "--text", "x", "--answer", "1"], "recipe=no-such: no such recipe"),
        (["demo", "none.txt", "--answer", "1"], "FILE=none.txt: cannot be read"),
        (["demo", "none.txt", "--text", "x", "--answer", "1"], "--text: a file is given too"),
        (["demo", "--text", "x", "--answer", "1", "--problem", "1"], "--problem: --answer or --question is given too"),
        (["demo", "--text", "x", "--answer", "17 18"], '--answer="17 18": cannot be graded: it is several'),
        (["demo", "--text", "x", "--answer", "1", "--column", "nums"], "--column nums: not a column"),
        (["demo", "--text", "x", "--answer", "1", "--set", "rewards.corect=1"], "rewards.corect: no such reward"),
        (["demo", "--text", "x", "--answer", "1", "--set", "reward_settings.cosine.over=1"], "not in [rewards]"),
        (["demo", "--text", "x", "--answer", "1", "--set", "rewards.none.py:f=1"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(score: Any, arguments: list[str], words: str) -> None:
    code, out, err = score(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_a_problem_that_is_not_there(score: Any, recipe: Path) -> None:
    code, _, err = score(recipe, "--problem", 6, "--text", "x")
    assert code == 2 and "--problem 6: the recipe holds out 5 problems; use 1 to 5" in err


def test_the_recipe_may_be_of_the_leaky_format(score: Any) -> None:
    text = "<think>\n1 + 1 = 2\n</think>\n\n<answer>2</answer>"
    settings = ["--set", "format.name=think_leaky", "--set", "rewards.step_verified_reference=1"]
    code, out, _ = score("demo", "--answer", "2", "--text", text, *settings)
    assert code == 0 and "1 of 2 lines between <think> tags hold, the answer is the gold" in " ".join(out.split())


def test_lines_keep_to_the_terminals_width(score: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["--set", "format.name=think", "--set", "rewards.verified_steps=0.05", "--set", "rewards.fluency=0.1"]
    text = "<think>\n" + "48/2 = 24\n" * 9 + "</think>\n<answer>24</answer>"
    for columns in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        question = "She sold 48 clips, then half as many. How many?" * 5
        code, out, _ = score(recipe, "--answer", "24", "--question", question, "--text", text, *settings)
        names = {line for line in out.splitlines() if ":hinted" in line}
        assert code == 0 and all(len(line) <= columns for line in set(out.splitlines()) - names), out
        entries = [line for line in score("--list")[1].splitlines() if line.startswith(" ")]
        assert all(len(line) <= columns for line in entries)


def test_a_completion_of_nothing_or_with_control_characters(score: Any) -> None:
    code, out, _ = score("demo", "--answer", "18", stdin="")
    assert code == 0 and "note      the completion is empty" in out and out.splitlines()[-1].endswith("0.000")
    code, out, _ = score("demo", "--answer", "18", "--text", "<answer>\x1b[31m\n1</answer>")
    assert code == 0 and "\x1b" not in out and '"\\x1b[31m\\n1" is refused' in " ".join(out.split())
    code, out, _ = score("demo", "--answer", "\\frac{3}{7}", "--text", "<answer>\\frac{3}{7}</answer>")
    assert 'answer    "\\frac{3}{7}": correct' in out, "a backslash is shown once"


def test_a_file_with_a_mark_of_its_encoding_is_read_without_it(score: Any, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(RIGHT, encoding="utf-8-sig")
    _, out, _ = score("demo", tmp_path / "c.txt", "--answer", "18", "--json")
    assert json.loads(out)["format_strict"] is True


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Completions as a run's rollouts, as traces and as a user writes them."""
    wrong = RIGHT.replace("18\n<", "19\n<")
    rows = [
        {"step": 1, "problem_id": "x", "question": "9 times 2?", "gold": "18",
         "completions": [{"text": RIGHT}, {"text": wrong}]},
        {"question": "9 times 2?", "answer": "18", "reasoning": "r", "completion": RIGHT, "verdict": "correct"},
        {"completion": "", "answer": 18},
        {"completions": ["#### 7", "no"], "answer": "7", "nums": [7]},
    ]  # fmt: skip
    file = tmp_path / "many.jsonl"
    file.write_text("\n\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8-sig")
    return file


def test_many_completions_are_a_table_with_means(score: Any, many: Path) -> None:
    code, out, err = score("demo", many, "--set", "rewards.countdown=0.5")
    lines = out.splitlines()
    assert (code, err) == (0, "") and all(len(line) <= 80 for line in lines)
    assert [line.split()[1:3] for line in lines[1:7]] == [
        ["1.100", "correct"], ["0.000", "wrong"], ["1.100", "correct"], ["0.000", "no_answer"], ["0.250", "no_answer"],
        ["0.000", "no_answer"],
    ]  # fmt: skip
    assert lines[1].endswith('"18"') and lines[4].endswith("none in the format")
    means = {line.split()[0]: line.split()[1:] for line in lines[9:]}
    assert means["correct"] == ["0.375", "6", "of", "6"] and means["countdown"] == ["0.000", "2", "of", "6"]
    assert float(means["total"][0]) == pytest.approx(2.45 / 6, abs=1e-3)


def test_many_completions_as_json_and_with_one_gold_for_all(score: Any, many: Path) -> None:
    _, out, _ = score("demo", many, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["gold"] for record in records] == ["18", "18", "18", "18", "7", "7"]
    many.write_text('"18"\n{"completion": "19"}\n', encoding="utf-8")
    _, out, _ = score("demo", many, "--answer", "19", "--json")
    assert [json.loads(line)["total"] for line in out.splitlines()] == [0.0, 0.25]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no line"),
        ("\n \n", "holds no line"),
        ("{", "line 1 is not JSON"),
        ('{"completion": "a", "answer": "1"}\n3\n', "line 2 has no completion"),
        ('{"answer": "1"}', "line 1 has no completion"),
        ('{"completions": ["a", 3], "answer": "1"}', "line 1 has no completion"),
        ('{"completion": "a"}', 'line 1 has no gold answer; write it as "answer"'),
        ('{"completion": "a", "answer": true}', "line 1 has no gold answer"),
        ('{"completion": "a", "answer": "a, b or c"}', 'line 1: gold="a, b or c": cannot be graded'),
        # what solve writes of a question of the user's: the answer is the model's own
        ('{"question": "?", "reasoning": "r", "completion": "a", "answer": "1"}', "line 1 has no gold answer"),
    ],
)
def test_a_file_of_many_that_cannot_be_scored_is_one_line(score: Any, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "many.jsonl").write_text(text)
    code, out, err = score("demo", tmp_path / "many.jsonl")
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1, err


def test_bytes_that_are_no_text_are_one_line(score: Any, tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes(b"\xff\xfe")
        code, _, err = score("demo", tmp_path / name, "--answer", "1")
        assert code == 2 and "is not UTF-8 text (byte" in err and "save it as UTF-8" in err
    code, _, err = score("demo", "--answer", "1", stdin="\udcff")
    assert code == 2 and "FILE=-: is not UTF-8 text" in err
    code, _, err = score("demo", "--answer", "1", "--text", "\udcff")
    assert code == 2 and "--text: is not UTF-8 text" in err


def test_a_fault_of_the_recipe_is_told_before_anything_is_read(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Untouched(io.StringIO):
        def read(self, *_: Any) -> str:
            raise AssertionError("standard input was read")

    monkeypatch.setattr(io, "StringIO", Untouched)
    code, _, err = score("demo", "--answer", "1", "--set", "rewards.corect=1")
    assert code == 2 and "rewards.corect: no such reward" in err


def test_columns_with_an_option_of_their_own(score: Any) -> None:
    code, _, err = score("demo", "--answer", "1", "--text", "x", "--column", "answer=2")
    assert code == 2 and "--column answer=2: has an option of its own; use --answer" in err


def test_a_users_function_that_fails_is_one_line(score: Any, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("def f(completions, hint, **columns): return [1.0]\n")
    settings = ["--set", f"rewards.{tmp_path}/my.py:f=1"]
    code, out, err = score("demo", "--answer", "1", "--text", "x", *settings)
    assert (code, out) == (2, "") and "needs hint, which is not there; there are: answer, question" in err
    assert score("demo", "--answer", "1", "--text", "x", "--column", "hint=h", *settings)[0] == 0


@pytest.mark.slow
def test_a_runs_rollouts_are_scored_as_the_run_scored_them(
    score: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mathgrpo.cli.train_commands import run_training, tiny_recipe

    settings = ["rewards.language=0.1", "rewards.soft_overlong=0.2", "reward_settings.soft_overlong.max_length=40"]
    run = run_training(tiny_recipe("demo", [f"run.output_dir={tmp_path}", *settings]), "r")
    assert run is not None
    capsys.readouterr()
    sets = [word for each in (*settings, "rollout.max_new_tokens=48") for word in ("--set", each)]
    code, out, err = score("demo", run / "rollouts.jsonl", "--json", *sets)
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    theirs = [each for row in rows for each in row["completions"]]
    ours = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "") and len(ours) == len(theirs) == 4 * 4 * 4
    assert [each["verdict"] for each in ours] == [each["verdict"] for each in theirs]
    for mine, row in zip(ours, theirs, strict=True):
        for part in mine["rewards"]:
            if part["name"] != "soft_overlong" or row["finish_reason"] == "eos":  # cut completions have no end token
                assert part["value"] == pytest.approx(row["reward_parts"][part["name"]]), part["name"]
