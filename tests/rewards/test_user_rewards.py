"""A user's own function: whatever it does, one line names it, the completion at fault and the remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.rewards import Scores, build_suite, call_faults
from mathgrpo.rewards.pre_run_check import try_rewards
from mathgrpo.types import Problem

FUNCTIONS = """
from __future__ import annotations
import asyncio, dataclasses, decimal, fractions, math, sys
import numpy, torch
from beside import HELPER
from json import loads

@dataclasses.dataclass
class Counter:
    calls: int = 0
    names: ClassVar = ()

COUNTER = Counter()

def texts(completions): return [turn[0]["content"] for turn in completions]

def each(value):
    def reward(completions, **columns): return [value] * len(completions)
    return reward

true, integer, numpy32, numpybool = each(True), each(3), each(numpy.float32(0.5)), each(numpy.bool_(True))
torch0, torch1 = each(torch.tensor(0.5)), each(torch.tensor([0.5]))
decimal_, fraction, helper = each(decimal.Decimal("0.5")), each(fractions.Fraction(1, 2)), each(HELPER)
minus_zero = each(-0.0)
def array(completions, **columns): return numpy.ones(len(completions))
def tensor(completions, **columns): return torch.ones(len(completions))
def column(completions, **columns): return torch.ones(len(completions), 1)
def tuple_(completions, **columns): return (1,) * len(completions)
async def waits(completions, **columns):
    await asyncio.sleep(0)
    return torch.ones(len(completions))

bytes_, nan, inf, minus_inf = each(b"1"), each(math.nan), each(math.inf), each(-math.inf)
number_text, complex_, huge, longest = each("1.0"), each(1j), each(10**400), each(10**6000)
list_, tensor2, decimal_nan, none_text = each([1.0]), each(torch.ones(2)), each(decimal.Decimal("nan")), each("None")
exception = each(ValueError("no"))
def scalar(completions, **columns): return torch.tensor(1.0)
def numpy_scalar(completions, **columns): return numpy.array(1.0)
def set_(completions, **columns): return {float(i) for i, _ in enumerate(completions)}
def dict_(completions, **columns): return dict.fromkeys(texts(completions), 1.0)
def generator(completions, **columns): yield from [1.0] * len(completions)
async def async_generator(completions, **columns): yield 1.0
def matrix(completions, **columns): return torch.ones(len(completions), 2)
def more(completions, **columns): return [1.0] * (len(completions) + 1)
def none_at_all(completions, **columns): pass
def a_class_it_is(): pass
class Judge: pass
def exits(completions, **columns): sys.exit(3)
async def async_exits(completions, **columns): sys.exit()
async def cancelled(completions, **columns): raise asyncio.CancelledError
def deep(completions, **columns): return [loads(text) for text in texts(completions)]
def silent(completions, **columns): raise KeyError()
def lines(completions, **columns): raise ValueError("one\\ntwo\\x1b[31m")
def needs(completions, hint, **columns): return [1.0] * len(completions)
def with_setting(completions, limit, **columns): return [float(limit)] * len(completions)
def setting_and_column(completions, hint, limit, **columns): return [float(limit)] * len(completions)
def spoils(prompts, completions, answer, nums=None, **columns):
    answer.clear(); prompts.clear()
    for turn in completions: turn[0]["content"] = "spoilt"
    for each in nums or []: each.clear()
    return [0.0, 0.0]
def counts(completions, **columns):
    COUNTER.calls += 1
    return [float(COUNTER.calls)] * len(completions)
def reads_count(completions, **columns): return [float(COUNTER.calls)] * len(completions)
def one_word(completions, **columns): return [float(len(text.split()[0])) for text in texts(completions)]
def largest(completions, **columns): return [1e308] * len(completions)
"""


@pytest.fixture
def user(tmp_path: Path) -> str:
    (tmp_path / "beside.py").write_text("HELPER = 0.25\n")
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return str(tmp_path / "mine.py")


def score(weights: dict[str, float], texts: list[str], tables: Any = None, **columns: Any) -> Scores:
    given = {"answer": ["18"] * len(texts), "question": ["?"] * len(texts), **columns}
    return build_suite(weights, get_format("xml"), tables).score(["?"] * len(texts), texts, given)


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message and len(message) < 600
    return message


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("true", 1.0), ("integer", 3.0), ("numpy32", 0.5), ("numpybool", 1.0), ("torch0", 0.5), ("torch1", 0.5),
        ("decimal_", 0.5), ("fraction", 0.5), ("helper", 0.25), ("array", 1.0), ("tensor", 1.0), ("column", 1.0),
        ("tuple_", 1.0), ("waits", 1.0), ("minus_zero", 0.0),
    ],
)  # fmt: skip
def test_every_kind_of_number_is_one(user: str, function: str, value: float) -> None:
    (found,) = score({f"{user}:{function}": 1.0}, ["a", "b"]).parts.values()
    assert found == (value, value) and all(type(each) is float for each in found)
    assert str(found[0]) != "-0.0"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("bytes_", "returned bytes \"b'1'\" for the completion 'a'"),
        ("nan", "returned nan for the completion 'a'"),
        ("inf", "returned inf for the completion 'a'"),
        ("minus_inf", "returned -inf for the completion 'a'"),
        ("number_text", "returned str '1.0' for the completion 'a'"),
        ("none_text", "returned str 'None' for the completion 'a'"),
        ("complex_", "returned complex '1j' for the completion 'a'"),
        ("huge", "returned int '1000"),
        ("longest", "returned int (too large to show) for the completion 'a'"),
        ("list_", "returned list '[1.0]' for the completion 'a'"),
        ("tensor2", "returned Tensor 'tensor([1., 1.])' for the completion 'a'"),
        ("matrix", "returned Tensor 'tensor([1., 1.])' for the completion 'a'"),
        ("decimal_nan", "returned nan for the completion 'a'"),
        ("exception", "returned ValueError 'no' for the completion 'a'"),
        ("scalar", "returned Tensor; return a list, one number per completion"),
        ("numpy_scalar", "returned ndarray; return a list"),
        ("set_", "returned set; return a list"),
        ("dict_", "returned dict; return a list"),
        ("generator", "returned generator; return a list"),
        ("async_generator", "returned async_generator; return a list"),
        ("more", "returned 3 values for 2 completions; return one for each"),
        ("none_at_all", "returned NoneType; return a list"),
        ("exits", "raised SystemExit: 3 (mine.py line "),
        ("async_exits", "raised SystemExit (mine.py line "),
        ("cancelled", "raised CancelledError (mine.py line "),
        ("deep", "raised JSONDecodeError: Expecting value: line 1 column 1 (char 0) (mine.py line "),
        ("deep", "on the completion 'a'"),
        ("silent", "raised KeyError (mine.py line "),
        ("lines", "raised ValueError: one\\ntwo\\x1b[31m (mine.py line "),
        ("needs", "needs hint, which is not there; there are: answer, question, prompts, completions"),
        ("Judge", "returned Judge; return a list"),
        ("with_setting", "needs limit, which is not there"),
    ],
)  # fmt: skip
def test_every_fault_is_one_line(user: str, function: str, words: str) -> None:
    name = f"{user}:{function}"
    message = complaint(lambda: score({name: 1.0, "correct": 1.0}, ["a", "b"]))
    assert message.startswith(f'rewards."{name}": ') and words in message, message


def test_a_setting_is_no_missing_column(user: str) -> None:
    name = f"{user}:with_setting"
    assert score({name: 1.0}, ["a"], {name: {"limit": 4}}).totals == (4.0,)
    name = f"{user}:setting_and_column"
    message = complaint(lambda: score({name: 1.0}, ["a"], {name: {"limit": 4}}))
    assert (
        "needs hint, which is not there" in message and "limit" not in message.partition("needs")[2].partition(";")[0]
    )


def test_what_a_function_does_to_its_lists_no_other_sees(user: str) -> None:
    weights = {f"{user}:spoils": 1.0, "correct": 1.0, "countdown": 1.0, f"{user}:counts": 0.0}
    text = get_format("xml").write("r", "9 * 2")
    scores = score(weights, [text, "18"], nums=[[9, 2], [9, 2]], target=[18, 18])
    assert scores.parts["countdown"] == (1.0, 0.0) and scores.parts["correct"] == (0.0, 0.25)


def test_functions_of_one_file_share_it_and_an_edited_file_is_read_anew(user: str) -> None:
    weights = {f"{user}:counts": 1.0, f"{user}:reads_count": 1.0}
    first = score(weights, ["a"]).parts
    assert first[f"{user}:counts"] == first[f"{user}:reads_count"] != (0.0,)
    path = Path(user)
    path.write_text(FUNCTIONS.replace("float(COUNTER.calls)", "-float(COUNTER.calls)"))
    assert score(weights, ["a"]).parts[f"{user}:counts"] == (-1.0,)


def test_a_total_that_is_no_number_any_more_does_not_crash(user: str) -> None:
    from mathgrpo.rewards.suite import weighted_total

    name = f"{user}:largest"
    assert score({name: 10.0}, ["a"]).totals == (float("inf"),)
    assert weighted_total([1e308, 1e308], [1.0, 1.0]) == float("inf")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:\n", "does not load: SyntaxError: invalid syntax (bad.py, line 1)"),
        ("def f():\nreturn 1\n", "IndentationError: expected an indented block"),
        ("import no_such_module_here\n", "ModuleNotFoundError: No module named 'no_such_module_here' (bad.py line 1)"),
        ("x = 1\nimport json\njson.loads('')\n", "Expecting value: line 1 column 1 (char 0) (bad.py line 3)"),
        ("import sys\nsys.exit('usage: bad.py FILE')\n", "SystemExit: usage: bad.py FILE (bad.py line 2)"),
        ("raise ValueError\n", "does not load: ValueError (bad.py line 1)"),
        ("", 'bad.py has no function "f"; its functions: none'),
        ("from math import floor as f2\ndef fg(): pass\n", 'no function "f"; did you mean "fg"? its functions: fg'),
        ("def lenght(): pass\nf = 3\n", 'no function "f"; its functions: lenght'),
        ("x = '\xff'\n", "does not load: SyntaxError"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_load_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.py").write_text(text, encoding="latin-1")
    before = set(sys.modules)
    message = complaint(lambda: build_suite({f"{tmp_path}/bad.py:f": 1.0}, get_format("xml")))
    assert words in message and "importlib" not in message, message
    left = {name for name in set(sys.modules) - before if name.startswith("mathgrpo_reward_bad")}
    assert not left or "has no function" in message


@pytest.mark.parametrize("name", ["none.py:f", "folder.py:f", "mine.txt:f", ":f", "a:b:c", "~nobody/x.py:f"])
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mine.txt").write_text("def f(): pass\n")
    message = complaint(lambda: build_suite({name: 1.0}, get_format("xml")))
    assert "no such file" in message and "path/to/file.py:function" in message


def test_the_nearest_function_is_named(user: str) -> None:
    message = complaint(lambda: build_suite({f"{user}:one_wrd": 1.0}, get_format("xml")))
    assert 'has no function "one_wrd"; did you mean "one_word"? its functions: ' in message and "loads" not in message


# Before step 0.


def test_a_function_is_tried_on_a_right_answer_and_on_no_text(user: str) -> None:
    problems = [Problem("What is 9 times 2?", "18", columns={"hint": "nine"})]

    def tried(name: str, table: Any = None) -> None:
        try_rewards(build_suite({name: 1.0}, get_format("xml"), table), problems, lambda text: [1] * len(text))

    for function in ("needs", "counts", "waits"):
        tried(f"{user}:{function}")
    message = complaint(lambda: tried(f"{user}:one_word"))
    assert "raised IndexError: list index out of range (mine.py line" in message
    assert "on the completion ''; return None" in message and "before step 0" in message


def test_columns_that_only_some_problems_have_are_none_for_the_others(user: str) -> None:
    problems = [Problem("a?", "1"), Problem("b?", "2", columns={"hint": "two"})]
    try_rewards(build_suite({f"{user}:needs": 1.0}, get_format("xml")), problems)


def test_a_reward_that_applies_to_no_problem_is_refused_unless_it_is_only_measured() -> None:
    plain, countdown = Problem("9 times 2?", "18"), Problem("Make 18.", "18", columns={"nums": [9, 2]})
    weights = {"countdown": 1.0, "format_parts": 0.1}
    message = complaint(lambda: try_rewards(build_suite(weights, get_format("xml")), [plain, plain]))
    assert message.startswith("rewards.countdown=1: applies to none of the 2 problems, which lack the column nums;")
    try_rewards(build_suite(weights, get_format("xml")), [plain, countdown])
    try_rewards(build_suite({"correct": 1.0, "countdown": 0.0}, get_format("xml")), [plain])


@pytest.fixture
def recipe(tmp_path: Path, user: str) -> Callable[..., str]:
    """A recipe that trains the starter for two steps with a function of the user's."""

    def written(function: str) -> str:
        path = tmp_path / "r.toml"
        path.write_text(f'[rewards]\ncorrect = 1.0\n"{user}:{function}" = 0.5\n[run]\noutput_dir = "{tmp_path}/runs"\n')
        return str(path)

    return written


@pytest.mark.usefixtures("generator")
@pytest.mark.parametrize("function", ["nan", "exits", "needs", "spoils"])
def test_the_command_ends_before_step_0_with_one_line(
    recipe: Callable[..., str], function: str, tmp_path: Path
) -> None:
    from mathgrpo.cli.train_commands import run_training, tiny_recipe

    if function == "spoils":  # nothing to complain of
        run_training(tiny_recipe(recipe(function), []), "r", dry_run=True)
        return
    message = complaint(lambda: run_training(tiny_recipe(recipe(function), []), "r"))
    assert f'mine.py:{function}": ' in message and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_fault_in_the_middle_of_a_run_names_the_completion_and_loses_nothing(tmp_path: Path) -> None:
    late, run = tmp_path / "late.py", tmp_path / "r"
    counted = "calls = 0\ndef late(completions, **columns):\n    global calls\n    calls += 1\n"
    late.write_text(counted + "    return [0.0 if calls < 8 else float('nan') for _ in completions]\n")
    sets = [f"rewards.{late}:late=0.5", "run.name=r", f"run.output_dir={tmp_path}", "training.checkpoint_every=0"]

    def train(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mathgrpo", "train", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)

    done = train("demo", "--tiny", *(word for each in sets for word in ("--set", each)))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f'error: step 3: rewards."{late}:late": returned nan for the completion ')
    assert done.stderr.endswith(f"; mend it and go on with mathgrpo train --resume {run}\n")
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-2"]

    late.write_text("def late(completions, **columns): return [0.0] * len(completions)\n")
    done = train("--resume", str(run))
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4] and json.loads((run / "run.json").read_text())["status"] == "finished"


def test_the_completion_at_fault_is_not_looked_for_without_end(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{user}:deep"
    assert "on the completion 'a'" in complaint(lambda: score({name: 1.0}, ["1", "2", "a"]))
    monkeypatch.setattr(call_faults, "SEARCH_S", -1.0)
    message = complaint(lambda: score({name: 1.0}, ["1", "2", "a"]))
    assert "raised JSONDecodeError" in message and "on the completion" not in message


def test_a_function_handed_to_the_trainer_is_told_the_same() -> None:
    from mathgrpo.trl_api.reward_functions import RewardFunctions

    def needs(completions: Any, hint: Any) -> list[float]:
        return [1.0]

    async def waits(completions: Any, hint: Any, **others: Any) -> list[float]:
        return [1.0]

    def adds(completions: Any) -> list[Any]:
        return [1 + each for each in completions]

    def parts(function: Any, **columns: Any) -> Any:
        return RewardFunctions(function, None).score(["p"], ["c"], ["c"], {"answer": ["1"], **columns}).parts

    for function in (needs, waits):
        message = complaint(lambda function=function: parts(function))  # type: ignore[misc]
        assert message == f'rewards."{function.__name__}": needs hint, which is not there; there are: ' + (
            "prompts, completions, answer"
        )
        assert parts(function, hint=["h"]) == {function.__name__: (1.0,)}
    message = complaint(lambda: parts(adds))
    assert "raised TypeError: unsupported operand" in message and "on the completion 'c'" in message
