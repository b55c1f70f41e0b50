"""One parse and one grading a completion, however many rewards, metrics and lines look at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch

from fakes import tiny_tokenizer
from mathgrpo.answers import grade
from mathgrpo.evaluation import evaluate
from mathgrpo.formats import Format, get_format
from mathgrpo.grpo.advantages import with_advantages
from mathgrpo.models import Policy
from mathgrpo.rewards import REWARDS, bound, build_suite
from mathgrpo.rewards.catalogue import answer_and_form as answer_rewards
from mathgrpo.rollout.engine import Engine
from mathgrpo.rollout.groups import reward_groups, sample_groups
from mathgrpo.runs.record import rollout_lines
from mathgrpo.training.recipe_task import rollout_metrics
from mathgrpo.types import Completion, Problem, Prompt, Sampling

XML, TOKENIZER = get_format("xml"), tiny_tokenizer()
PROBLEMS = [Problem(f"What is {n} + {n}?", str(2 * n)) for n in (1, 2, 3, 4)]
TEXTS = [XML.write("2 + 2 = 4", "4"), "so 4", "4", XML.write("no step", "x")]
POLICY = Policy(
    model=None, tokenizer=TOKENIZER, eos_ids=(1,), device="cpu", compute_dtype=torch.float32, max_context=1024, name="t"
)  # fmt: skip


@dataclass
class TextsEngine(Engine):
    """An engine whose completions are TEXTS, over and over."""

    name: str = "texts"
    reason: str = ""

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        drawn = [tuple(TOKENIZER(text)["input_ids"]) for text in TEXTS[:group_size]]
        return [[Completion(ids, (-1.0,) * len(ids), "length") for ids in drawn] for _ in prompts]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of `grade` and of a format's parser from here on."""
    counted: Counter[str] = Counter()
    parse = type(XML).parse

    def counting_parse(self: Format, text: str, **known: Any) -> Any:
        counted["parse"] += 1
        return parse(self, text, **known)

    def counting_grade(*args: Any, **kwargs: Any) -> Any:
        counted["grade"] += 1
        return grade(*args, **kwargs)

    monkeypatch.setattr(type(XML), "parse", counting_parse)
    for module in (import_module("mathgrpo.answers.grade"), answer_rewards):
        monkeypatch.setattr(module, "grade", counting_grade)
    return counted


def test_a_step_parses_and_grades_each_completion_once(calls: Counter[str]) -> None:
    suite = build_suite({"correct": 1.0, "format": 0.1, "verified_steps": 0.1, "integer": 0.0}, XML)
    drawn = reward_groups(
        sample_groups(TextsEngine(), POLICY, PROBLEMS, XML, 4, Sampling(max_new_tokens=8)), XML, suite
    )
    groups = with_advantages(drawn, "group")
    metrics = rollout_metrics(groups)
    lines = rollout_lines(1, groups)
    assert calls == {"parse": 16, "grade": 16}
    assert [row["verdict"] for row in lines[1]["completions"]] == ["correct", "no_answer", "no_answer", "refused"]
    assert (metrics["accuracy"], metrics["format_rate"], metrics["worked_rate"]) == (1 / 16, 0.5, 0.25)
    assert groups[1].reward_parts["correct"] == (1.0, 0.0, 0.25, 0.0)


def test_an_evaluation_parses_and_grades_each_completion_once(calls: Counter[str]) -> None:
    evaluated = evaluate(TextsEngine(), POLICY, PROBLEMS, XML, max_new_tokens=8, samples=3)
    assert calls == {"parse": 16, "grade": 16}
    assert evaluated.summary()["accuracy"] == 0.25


def test_a_reward_called_by_itself_grades_for_itself(calls: Counter[str]) -> None:
    paid = bound(REWARDS["correct"], XML)(prompts=["?"] * 4, completions=TEXTS, answer=["4"] * 4)
    assert paid == [1.0, 0.0, 0.25, 0.0] and calls == {"parse": 4, "grade": 4}


def test_a_users_function_gets_texts_and_no_grades(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "def mine(prompts, completions, **columns):\n"
        "    assert 'completion_grades' not in columns\n"
        "    return [len(each[0]['content']) for each in completions]\n"
    )
    name = f"{tmp_path}/mine.py:mine"
    suite = build_suite({"correct": 1.0, name: 0.1}, XML)
    scores = suite.score(["?"] * 2, ["4", "44"], {"answer": ["4"] * 2, "question": ["?"] * 2})
    assert scores.parts == {"correct": (0.25, 0.0), name: (1.0, 2.0)}
