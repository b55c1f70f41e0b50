from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from fakes import tiny_tokenizer
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluate, read_evaluation, write_evaluation
from mathgrpo.evaluation.evaluate import ROWS_AT_ONCE
from mathgrpo.formats import get_format
from mathgrpo.models import Policy
from mathgrpo.rollout.engine import Engine
from mathgrpo.types import Completion, Problem, Prompt, Sampling

XML = get_format("xml")
TOKENIZER = tiny_tokenizer()
END = 1
RIGHT, WRONG = XML.write("3 + 4 = 7", "7"), XML.write("3 + 4 = 8", "8")


@dataclass
class PromptReader(Engine):
    """An engine that answers from a table: word of the question -> texts, one a sample; it keeps what it was asked."""

    texts: dict[str, Sequence[str]]
    name: str = "table"
    reason: str = ""
    calls: list[tuple[int, int, Sampling]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        self.calls.append((len(prompts), group_size, sampling))
        return [[self._completion(prompt, sample, sampling) for sample in range(group_size)] for prompt in prompts]

    def _completion(self, prompt: Prompt, sample: int, sampling: Sampling) -> Completion:
        asked = TOKENIZER.decode(prompt.ids)
        text = next(texts for word, texts in self.texts.items() if word in asked)[sample]
        ids = [*TOKENIZER(text)["input_ids"], END]
        cut = ids[: sampling.max_new_tokens]
        return Completion(tuple(cut), (0.0,) * len(cut), "eos" if cut[-1] == END else "length")


def a_policy() -> Policy:
    return Policy(
        model=None,
        tokenizer=TOKENIZER,
        eos_ids=(END,),
        device="cpu",
        compute_dtype=torch.float32,
        max_context=1024,
        name="tiny",
    )


APPLES = Problem("Three apples and four apples?", "7", template="sums/1")
PEARS = Problem("Three pears and four pears?", "7")
TABLE = {"apples": [RIGHT, RIGHT, WRONG], "pears": ["It is 7.", WRONG, WRONG]}


def run(engine: PromptReader, problems: Sequence[Problem] = (APPLES, PEARS), **settings: Any) -> Any:
    return evaluate(engine, a_policy(), problems, XML, **({"max_new_tokens": 400} | settings))


def test_greedy_records_hold_problem_text_and_verdicts() -> None:
    apples, pears = run(PromptReader(TABLE)).records
    assert (apples.id, apples.question, apples.gold, apples.template) == (APPLES.id, APPLES.question, "7", "sums/1")
    assert apples.greedy.text == RIGHT and apples.greedy.answer == "7" and apples.greedy.verdict == "correct"
    assert apples.greedy.format_strict and apples.greedy.worked and apples.greedy.finish_reason == "eos"
    assert apples.greedy.tokens == len(RIGHT) + 1
    # Right, but not in the format: only the flexible verdict says so.
    assert (pears.greedy.verdict, pears.greedy.flexible_verdict) == ("no_answer", "correct")
    assert not pears.greedy.format_soft and apples.samples == ()


def test_samples_use_their_own_settings_and_greedy_does_not() -> None:
    engine = PromptReader(TABLE)
    evaluation = run(engine, samples=3, temperature=0.7, top_p=0.9, seed=5)
    assert [sample.verdict for sample in evaluation.records[0].samples] == ["correct", "correct", "wrong"]
    assert [(n, g, s.temperature, s.top_p, s.seed) for n, g, s in engine.calls] == [
        (2, 1, 0.0, 1.0, 5),
        (2, 3, 0.7, 0.9, 5),
    ]
    settings = evaluation.settings
    assert (settings.model, settings.engine, settings.format, settings.samples) == ("tiny", "table", "xml", 3)
    assert evaluation.summary()["sampled/accuracy"] == pytest.approx(2 / 6)


def test_truncated_completions_are_counted() -> None:
    evaluation = run(PromptReader(TABLE), [APPLES], max_new_tokens=20)
    assert evaluation.records[0].greedy.text == RIGHT[:20]
    assert evaluation.summary()["clipped_ratio"] == 1.0


def test_batches_bound_the_rows_and_keep_the_order() -> None:
    problems = [Problem(f"apples {i}?", "7") for i in range(ROWS_AT_ONCE + 3)]
    engine, seen = PromptReader({"apples": ["7"] * 3}), []
    evaluation = run(
        engine, problems, samples=3, max_new_tokens=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert all(prompts * group <= ROWS_AT_ONCE for prompts, group, _ in engine.calls)
    assert [record.question for record in evaluation.records] == [problem.question for problem in problems]
    assert all(len(record.samples) == 3 for record in evaluation.records)
    assert seen[-1] == (4 * len(problems), 4 * len(problems)) and sorted(seen) == seen


def test_no_problems_is_refused() -> None:
    with pytest.raises(UserError, match="problems: there are none"):
        run(PromptReader(TABLE), [])


def test_an_evaluation_survives_its_files(tmp_path: Any) -> None:
    evaluation = run(PromptReader(TABLE), samples=2)
    write_evaluation(evaluation, tmp_path, "before")
    assert read_evaluation(tmp_path, "before") == evaluation
