"""mathgrpo score."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathgrpo.cli.options import Overrides, quiet_libraries
from mathgrpo.errors import UserError
from mathgrpo.files import readable

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.rewards import RewardSuite
    from mathgrpo.rewards.explained_score import Explanation
    from mathgrpo.types import Problem

GIVEN_OTHERWISE = {"answer": "--answer", "question": "--question"}
"""Columns with an option of their own."""


def score_command(
    recipe: Annotated[str, typer.Argument(help="A recipe, by path or bare name; not needed with --list.")] = "",
    file: Annotated[
        Path | None,
        typer.Argument(help="File with the completion, .jsonl with many; - or nothing: standard input."),
    ] = None,
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
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a completion.")] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="List the rewards that a recipe can name, and stop.")
    ] = False,
) -> None:
    """Show what each reward of a recipe pays for a completion, and why.

    A .jsonl file holds many: a run's rollouts.jsonl, traces of mathgrpo solve --problems, or lines with completion and
    answer of your own.

    \b
    Examples:
      mathgrpo score demo --answer 18 --text "<reasoning>9*2=18</reasoning><answer>18</answer>"
      mathgrpo score qwen2.5-0.5b-xml completion.txt --problem 3 --json
      mathgrpo score demo runs/my-run/rollouts.jsonl --set rewards.integer=0.1
      mathgrpo score --list
    """
    from mathgrpo.cli import score_text

    if list_all:
        from mathgrpo.rewards.catalogue_page import catalogue_lines

        print("\n".join(catalogue_lines(score_text.columns())))
        return
    many = file is not None and file.suffix.lower() == ".jsonl"
    _require_sense(recipe, file, text, question, number, has_gold=answer is not None, many=many)
    from mathgrpo.config import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    suite = _suite(loaded)
    problem = _problem(loaded, number, question, answer, _columns(column or []))
    if answer is not None:
        score_text.require_gold("--answer", answer)
    if file is not None and many:
        given = score_text.read_completions(file, problem)
    else:
        assert problem is not None
        given = [(problem, _completion(file, text))]
    scored = _scored(loaded, suite, given)
    if as_json:
        print("\n".join(map(score_text.as_json, scored)))
    else:
        print("\n".join(score_text.overview_lines(scored) if many else score_text.lines(scored[0])))


def _require_sense(
    recipe: str, file: Path | None, text: str | None, question: str, number: int | None, *, has_gold: bool, many: bool
) -> None:
    """Raise UserError for what is missing, or given twice."""
    if not recipe:
        raise UserError("RECIPE: nothing given; name a recipe, such as demo, or list the rewards with --list")
    if text is not None and file is not None:
        raise UserError("--text: a file is given too; give one or the other")
    if number is not None and (has_gold or question):
        raise UserError("--problem: --answer or --question is given too; give one or the other")
    if number is None and not has_gold and not many:
        raise UserError("--answer: nothing given; give the gold answer, or --problem N for one of the recipe's")


def _suite(recipe: Recipe) -> RewardSuite:
    from mathgrpo.formats import format_of
    from mathgrpo.rewards import recipe_suite

    return recipe_suite(recipe, format_of(recipe.format))


def _completion(file: Path | None, text: str | None) -> str:
    """Return the completion from --text, a file or standard input."""
    with readable("--text" if text is not None else f"FILE={file or '-'}"):
        if text is None and file is not None and str(file) != "-":
            return file.read_text(encoding="utf-8-sig")
        if text is None and sys.stdin.isatty():
            print("the completion, then Ctrl-D:", file=sys.stderr)
        given = sys.stdin.read() if text is None else text
        given.encode()
        return given


def _columns(columns: list[str]) -> dict[str, Any]:
    """Return the further columns that are given by hand."""
    from mathgrpo.config.overrides import parse_value

    given: dict[str, Any] = {}
    for each in columns:
        name, equals, value = each.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"--column {each}: not a column; write NAME=VALUE, such as 'nums=[3, 5, 7]'")
        if name in GIVEN_OTHERWISE:
            raise UserError(f"--column {each}: has an option of its own; use {GIVEN_OTHERWISE[name]}")
        given[name] = parse_value(value.strip(), as_text=False)
    return given


def _problem(
    recipe: Recipe, number: int | None, question: str, answer: str | None, columns: dict[str, Any]
) -> Problem | None:
    """Return the problem given by hand, or the N-th that evaluation meets; None where neither says a gold answer."""
    from dataclasses import replace

    from mathgrpo.problems import load_problem_sets
    from mathgrpo.types import Problem

    if number is None:
        return None if answer is None else Problem(question=question, answer=answer, columns=columns)
    heldout = load_problem_sets(recipe.problems).heldout
    if number > len(heldout):
        raise UserError(f"--problem {number}: the recipe holds out {len(heldout)} problems; use 1 to {len(heldout)}")
    problem = heldout[number - 1]
    return replace(problem, columns={**problem.columns, **columns})


def _scored(recipe: Recipe, suite: RewardSuite, given: list[tuple[Problem, str]]) -> list[Explanation]:
    """Return what the rewards say of each completion; its length in tokens where one needs it."""
    from mathgrpo.formats.chat import encode_prompt, problem_messages, prompt_messages
    from mathgrpo.rewards import CATALOGUE
    from mathgrpo.rewards.explained_score import explain

    needed = any(name not in CATALOGUE or CATALOGUE[name].needs_tokens for name in suite.weights)
    # Whether the prompt has opened what a completion closes is for the model's template to say.
    unsure = any(suite.fmt.parse(text) != suite.fmt.parse(text, opened="") for _, text in given)
    tokenizer = tokenizer_of(recipe) if needed or unsure else None
    scored = []
    for problem, completion in given:
        shows = suite.fmt.leaky and problem.solution
        prompt = problem_messages(problem, suite.fmt) if shows else prompt_messages(problem.question, suite.fmt)
        ids = None if tokenizer is None else ended_ids(tokenizer, completion)
        known = unsure and tokenizer is not None and not suite.fmt.leaky
        opened = encode_prompt(tokenizer, problem, suite.fmt).opened if known else None
        scored.append(explain(suite, problem, completion, prompt, ids, opened))
    return scored


def tokenizer_of(recipe: Recipe) -> Any:
    """Return the recipe's tokenizer, None where it is not on this machine."""
    from mathgrpo.models.locate import locate_model

    quiet_libraries()
    from transformers import AutoTokenizer

    with suppress(OSError, ValueError, UserError):
        return AutoTokenizer.from_pretrained(locate_model(recipe.model.path), local_files_only=True)
    return None


def ended_ids(tokenizer: Any, completion: str) -> list[int]:
    """Return a completion's token ids, the end token included where there is one."""
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [*tokenizer(completion, add_special_tokens=False)["input_ids"], *ends]
