"""mathgrpo score."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.rewards.explain import Explanation
    from mathgrpo.types import Problem


def score_command(
    recipe: Annotated[str, typer.Argument(help="A recipe, by path or bare name; not needed with --list.")] = "",
    file: Annotated[Path | None, typer.Argument(help="File with the completion; - or nothing: standard input.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="The completion itself.")] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="The gold answer.")] = None,
    question: Annotated[str, typer.Option("--question", help="The question, for rewards that read it.")] = "",
    number: Annotated[
        int | None,
        typer.Option("--problem", metavar="N", help="Take the recipe's N-th held-out problem, from 1.", min=1),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="NAME=VALUE", help="A further column; can be repeated.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; can be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="List the rewards that a recipe can name, and stop.")
    ] = False,
) -> None:
    """Show what each reward of a recipe pays for a completion, and why.

    \b
    Examples:
      mathgrpo score demo --answer 18 --text "<reasoning>9*2=18</reasoning><answer>18</answer>"
      mathgrpo score qwen2.5-0.5b-xml completion.txt --problem 3 --json
      mathgrpo score --list
    """
    if list_all:
        from mathgrpo.rewards.page import catalogue_lines

        print("\n".join(catalogue_lines()))
        return
    if not recipe:
        raise UserError("RECIPE: nothing given; name a recipe, such as demo, or list the rewards with --list")
    from mathgrpo.config import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if number is not None and (answer is not None or question):
        raise UserError("--problem: --answer or --question is given too; give one or the other")
    if number is None and answer is None:
        raise UserError("--answer: nothing given; give the gold answer, or --problem N for one of the recipe's")
    completion = _completion(file, text)
    problem = _problem(loaded, number, question, answer or "", column or [])
    explanation, tokens = _explained(loaded, problem, completion)
    print(_as_json(problem, explanation, tokens) if as_json else "\n".join(_lines(problem, explanation, tokens)))


def _completion(file: Path | None, text: str | None) -> str:
    """Return the completion from --text, a file or standard input."""
    if text is not None:
        if file is not None:
            raise UserError("--text: a file is given too; give one or the other")
        return text
    try:
        if file is None or str(file) == "-":
            return sys.stdin.read()
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"FILE={file}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"FILE={file or '-'}: byte {error.start} is not UTF-8; save it as UTF-8") from error


def _problem(recipe: Recipe, number: int | None, question: str, answer: str, columns: list[str]) -> Problem:
    from dataclasses import replace

    from mathgrpo.config.overrides import parse_value
    from mathgrpo.types import Problem

    given: dict[str, Any] = {}
    for each in columns:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--column {each}: not a column; write NAME=VALUE, such as 'nums=[3, 5, 7]'")
        given[name.strip()] = parse_value(value.strip(), as_text=False)
    if number is None:
        return Problem(question=question, answer=answer, columns=given)
    problem = _heldout(recipe, number)
    return replace(problem, columns={**problem.columns, **given})


def _heldout(recipe: Recipe, number: int) -> Problem:
    """Return the N-th held-out problem of the recipe's source, the one that evaluation meets N-th."""
    from mathgrpo.problems import load_problem_sets

    problems = load_problem_sets(recipe.problems).heldout
    if number > len(problems):
        raise UserError(f"--problem {number}: the recipe holds out {len(problems)} problems; use 1 to {len(problems)}")
    return problems[number - 1]


def _explained(recipe: Recipe, problem: Problem, completion: str) -> tuple[Explanation, int | None]:
    """Return what the recipe's rewards say, and the completion's length in tokens where a reward needs it."""
    from mathgrpo.answers import gold_problem
    from mathgrpo.formats import get_format
    from mathgrpo.formats.chat import prompt_messages
    from mathgrpo.rewards import CATALOGUE, build_suite
    from mathgrpo.rewards.explain import explain

    unreadable = gold_problem(problem.answer)
    if unreadable is not None:
        raise UserError(f'--answer="{problem.answer[:60]}": cannot be graded: it {unreadable}')
    fmt = get_format(recipe.format.name)
    suite = build_suite(recipe.rewards, fmt, recipe.reward_settings, recipe.rollout.max_new_tokens)
    needed = any(name not in CATALOGUE or CATALOGUE[name].needs_tokens for name in suite.weights)
    ids = _token_ids(recipe, completion) if needed else None
    prompt = prompt_messages(problem.question, fmt)
    return explain(suite, problem, completion, prompt, ids), None if ids is None else len(ids)


def _token_ids(recipe: Recipe, completion: str) -> list[int] | None:
    """Return the completion's token ids with the end token, None without the recipe's tokenizer on this machine."""
    from mathgrpo.cli.libraries import quiet_libraries
    from mathgrpo.models.sources import locate_model

    quiet_libraries()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(locate_model(recipe.model.path), local_files_only=True)
    except (OSError, ValueError, UserError):
        return None
    ids = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    return ids if tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]


def _lines(problem: Problem, explanation: Explanation, tokens: int | None) -> list[str]:
    from mathgrpo.rewards.why import quoted
    from mathgrpo.training.progress import printable

    graded = explanation.graded
    shown = "none in the format" if graded.answer is None else quoted(graded.answer)
    lines = [f"question  {printable(problem.question)}"] if problem.question else []
    lines.append(f"gold      {printable(problem.answer)}")
    lines.append(f"answer    {printable(shown)}: {graded.verdict}")
    lines += [f"tokens    {tokens}, the end token included"] if tokens is not None else []
    width = max(len("total"), *(len(part.name) for part in explanation.parts))
    lines += ["", f"{'reward':<{width}}     value   weight     pays  why"]
    for part in explanation.parts:
        value = "      –" if part.value is None else f"{part.value:7.3f}"
        numbers = f"{value} × {part.weight:6g} = {part.amount:7.3f}"
        lines.append(f"{part.name:<{width}}   {numbers}  {printable(part.why)}")
    lines.append(f"{'total':<{width}}   {'':19}{explanation.total:7.3f}")
    return lines


def _as_json(problem: Problem, explanation: Explanation, tokens: int | None) -> str:
    import json
    import math

    def bound(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    graded = explanation.graded
    rewards = [
        {
            "name": part.name, "value": part.value, "weight": part.weight, "pays": part.amount,
            "low": bound(part.low), "high": bound(part.high), "why": part.why,
        }
        for part in explanation.parts
    ]  # fmt: skip
    record = {
        "question": problem.question, "gold": problem.answer, "answer": graded.answer, "verdict": graded.verdict,
        "flexible_verdict": graded.flexible_verdict, "format_strict": graded.format_strict,
        "format_soft": graded.format_soft, "tokens": tokens, "total": explanation.total, "rewards": rewards,
    }  # fmt: skip
    return json.dumps(record, ensure_ascii=False)
