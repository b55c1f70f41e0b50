"""What public data sets call the columns of a problem, the surest names first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Column = Literal["question", "answer", "solution"]
COLUMNS: tuple[Column, ...] = get_args(Column)
COUNTDOWN = "Using the numbers {%s}, create an equation that equals {target}. Use +, -, *, / and each number once."

QUESTIONS: tuple[tuple[str, ...], ...] = (
    ("{body} {question}", "{passage} {question}"),
    ("question",),
    (
        "problem", "query", "{instruction}\n{input}", "prompt", "instruction", "input", "question_concat",
        "problem_statement", "problem_text", "problem_prompt", "question_text", "extra_info.question",
    ),
    ("messages", "conversations", "conversation", "0.value", "text", "original_question"),
    (COUNTDOWN % "nums", COUNTDOWN % "numbers"),
)  # fmt: skip
"""Columns, parts of columns and texts of several that hold the question: of the first group that is there, one."""

GOLDS: tuple[tuple[str, ...], ...] = (
    ("answer",),
    (
        "final_answer", "expected_answer", "ground_truth", "gold", "gold_answer", "golden_answer", "correct_answer",
        "reference_answer", "ground_truth_answer", "groundtruth", "final_ans", "short_answer", "answer_key",
        "answerkey", "reward_model.ground_truth", "1.ground_truth.value", "1.ground_truth", "correct",
    ),
    ("target", "targets", "label", "labels", "result", "reference", "value", "ans"),
)  # fmt: skip
"""The same for the gold answer, where a column holds just that."""

WORKED = (
    "solution", "response", "output", "rationale", "generated_solution", "completion", "explanation", "worked_solution",
    "messages", "conversations", "conversation", "1.value", "chosen",
)  # fmt: skip
"""Columns of worked solutions, in which the gold may be marked."""
OPTIONS = ("options", "choices")
"""Columns of what a question lets choose from."""
_QUESTION_WORDS = frozenset(
    name for group in QUESTIONS for name in group if "{" not in name and "." not in name
) | {"nums", "numbers"}  # fmt: skip


def plain(name: object) -> str:
    """Return a column's name as the lists here write it.

    Example:
        >>> plain("Final Answer"), plain("Final-answer")
        ('final_answer', 'final_answer')
    """
    return re.sub(r"[\s-]+", "_", str(name).strip("\ufeff \t").lower())


def names_a_question(values: Mapping[str, object]) -> bool:
    """Return whether one of the names is that of a question: then they are columns."""
    return any(plain(name) in _QUESTION_WORDS for name in values)


def is_known_for_other(name: str, field: Column) -> bool:
    """Return whether a column is known to hold something else than this: then it is never proposed for it."""
    asks = {each for group in QUESTIONS for each in group}
    golds = {each for group in GOLDS for each in group}
    kinds: dict[Column, set[str]] = {"question": asks, "answer": golds | set(WORKED), "solution": set(WORKED)}
    return plain(name) not in kinds[field] and any(plain(name) in kind for kind in kinds.values())


def in_table(name: str, names: Iterable[str]) -> str:
    """Return a known name (a part's, a text's) as a table spells it, "" where the table has no such columns.

    Example:
        >>> in_table("{body} {question}", ["ID", "Body", "Question"]), in_table("reward_model.ground_truth", ["Answer"])
        ('{Body} {Question}', '')
    """
    spelled = {plain(each): each for each in reversed(list(names))}
    if "{" in name:
        wanted = re.findall(r"\{([^{}]+)\}", name)
        if not all(each in spelled for each in wanted):
            return ""
        return re.sub(r"\{([^{}]+)\}", lambda found: "{" + spelled[found[1]] + "}", name)
    head, dot, rest = name.partition(".")
    return spelled[head] + dot + rest if head in spelled else ""
