"""mathgrpo grade: the verdict on an answer or a completion, and how it came about."""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import Any

import pytest

from mathgrpo.cli.grade_command import grade_command


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process; returns (exit code, output, errors)."""
    from mathgrpo.cli import main

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mathgrpo", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_the_examples_of_the_help_are_true(called: Any) -> None:
    examples = re.findall(r"mathgrpo (grade .*)", str(grade_command.__doc__))
    assert len(examples) == 4
    for example in examples:
        code, out, _ = called(*shlex.split(example.replace("\\", "\\\\")))
        assert code == 0 and "correct" in out, example


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (["1261", "--gold", "1260"], ["outcome wrong", 'read "1261", the whole text', "why another number"]),
        (["-5", "--gold", "-5"], ["outcome correct", "rule number"]),
        (["So,\nthe answer is $\\frac{3}{4}$ of it.", "--gold", "0.75"], ["outcome correct", "said to be the answer"]),
        (["so\n\\boxed{18} or \\boxed{19}", "--gold", "18"], ["outcome ambiguous", "they differ"]),
        (["18 or 19", "--gold", "18"], ["the whole text"]),
        (["", "--gold", "18"], ["outcome no answer"]),
        (["so 17", "--gold", "18", "--format", "xml"], ["no answer", "layout not kept to", 'outside "17"', "wrong"]),
        (["\x1b[31m", "--gold", "18"], ['"\\x1b[31m"']),
    ],
)
def test_what_was_read_and_why(called: Any, words: list[str], shows: list[str]) -> None:
    code, out, _ = called("grade", *words)
    flat = " ".join(out.split())
    assert code == 0 and all(part in flat for part in shows), out


def test_the_record(called: Any) -> None:
    text = "<think>2+2</think><answer>4.0</answer>"
    _, out, _ = called("grade", text, "--gold", "4", "--format", "think", "--json")
    record = json.loads(out)
    assert (record["outcome"], record["read"], record["rule"]) == ("correct", "4.0", "number")
    assert record["format_strict"] and record["reasoning"] == "2+2" and record["flexible"]["at"] == "format"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["1", "--gold", "17 18"], '--gold="17 18": cannot be graded'),
        (["1", "--gold", "1", "--format", "json"], "--format json: no such format; use xml"),
        (["--jason", "--gold", "1"], "--jason: no such option; use --gold"),
    ],
)
def test_bad_input_is_one_line(called: Any, words: list[str], says: str) -> None:
    code, out, errors = called("grade", *words)
    assert code == 2 and not out and says in errors and len(errors.splitlines()) == 1
