"""mathgrpo audit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathgrpo.cli.options import Overrides, quiet_libraries
from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.rewards.audit import Audit, Earned, Own
    from mathgrpo.types import Problem

SHOWN_EXPLOITS = 8
NOT_SOUND = 1
"""Exit code of an audit that found a wrong answer paid as much as a right one."""


def audit_command(
    recipe: Annotated[str, typer.Argument(help="A recipe, by path or bare name, or a run's config.toml.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="The model's completions, .jsonl such as a run's rollouts.jsonl; else the model is asked."),
    ] = None,
    number: Annotated[
        int, typer.Option("--problems", metavar="N", help="Problems to try: of the training set, or of FILE.", min=1)
    ] = 20,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Completions to draw of the model for each problem; 0: none.", min=0)
    ] = 2,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Try to fool a recipe's rewards: what the gold, near misses, known tricks and the model's own completions earn.

    Ends with exit code 1 when a completion whose answer is wrong, or that has none, earns as much as a right answer in
    the asked format, or more.

    \b
    Examples:
      mathgrpo audit demo
      mathgrpo audit demo --set 'rewards."my_rewards.py:style"=0.5' --problems 50
      mathgrpo audit demo runs/my-run/rollouts.jsonl --json
    """
    from mathgrpo.cli.score_command import ended_ids, tokenizer_of
    from mathgrpo.config import load_recipe
    from mathgrpo.formats import format_of
    from mathgrpo.formats.chat import encode_prompt
    from mathgrpo.problems import load_problem_sets
    from mathgrpo.rewards import recipe_suite
    from mathgrpo.rewards.audit import audit

    loaded = load_recipe(recipe, overrides or [])
    fmt = format_of(loaded.format)
    suite = recipe_suite(loaded, fmt)
    tokenizer = tokenizer_of(loaded)
    if file is not None:
        problems, own, whose = _kept(file, number)
    else:
        train = load_problem_sets(loaded.problems).train
        problems = list(train[:: max(1, len(train) // number)][:number])
        own, whose = _drawn(loaded, problems, samples)
    opened = encode_prompt(tokenizer, problems[0], fmt).opened if tokenizer is not None else ""
    found = audit(suite, problems, None if tokenizer is None else partial(ended_ids, tokenizer), own, opened)
    print(json.dumps(as_record(found), ensure_ascii=False) if as_json else "\n".join(lines(found, whose)))
    if not found.sound:
        raise typer.Exit(NOT_SOUND)


def lines(found: Audit, whose: str) -> list[str]:
    """Return an audit for a reader. whose: where the model's own completions are from, or why there are none."""
    from rich.table import Table

    from mathgrpo.cli.score_text import drawn
    from mathgrpo.text import escaped, number

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="none")
    table.add_column("completion", overflow="fold")
    for name in ("tried", "mean", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind, those in found.by_kind().items():
        totals = [one.total for one in those]
        table.add_row(escaped(kind), f"{len(those):,}", f"{fmean(totals):.3f}", f"{max(totals):.3f}")
    told = [f"the model's own completions: {whose}", "", *drawn(table), "", found.line()]
    for each in found.unpaid[:SHOWN_EXPLOITS]:
        told += _shown("a right answer earns no more than saying nothing", each)
    kinds = {exploit.wrong.probe.kind: exploit for exploit in reversed(found.exploits)}
    for exploit in list(reversed(kinds.values()))[:SHOWN_EXPLOITS]:
        told += _shown(
            f"{exploit.wrong.probe.kind}, against {number(exploit.right.total)} for a right answer", exploit.wrong
        )
    return told


def _shown(title: str, each: Earned) -> list[str]:
    """Return a completion with what each reward pays for it."""
    from mathgrpo.text import escaped, number, quoted

    paid = ", ".join(f"{name} {number(value)}" for name, value in each.parts.items() if value)
    return [
        "", f"{title}: {number(each.total)} ({escaped(paid) or 'nothing'})",
        f"  gold        {quoted(each.problem.answer)}",
        f"  completion  {quoted(each.probe.text, 160)}",
    ]  # fmt: skip


def as_record(found: Audit) -> dict[str, Any]:
    """Return an audit as one JSON object."""
    return {
        "sound": found.sound, "line": found.line(), "problems": found.problems,
        "kinds": [
            {"kind": kind, "right": each[0].probe.right, "tried": len(each), "mean": fmean(e.total for e in each),
             "most": max(e.total for e in each)} for kind, each in found.by_kind().items()
        ],
        "exploits": [
            {"kind": e.wrong.probe.kind, "gold": e.wrong.problem.answer, "completion": e.wrong.probe.text,
             "earns": e.wrong.total, "right_earns": e.right.total, "rewards": dict(e.wrong.parts)}
            for e in found.exploits
        ],
        "unpaid": [{"gold": e.problem.answer, "completion": e.probe.text, "earns": e.total} for e in found.unpaid],
    }  # fmt: skip


def _kept(file: Path, number: int) -> tuple[list[Problem], list[Own], str]:
    """Return the first problems of a file of completions, their completions, and where these are from in words."""
    from mathgrpo.cli.score_text import read_completions

    read = read_completions(file, None)
    problems = list({problem.id: problem for problem, _ in read}.values())[:number]
    kept = {problem.id for problem in problems}
    own = [(problem, text) for problem, text in read if problem.id in kept]
    return problems, own, f"{len(own):,} of the {len(read):,} in {file}"


def _drawn(recipe: Recipe, problems: Sequence[Problem], samples: int) -> tuple[list[Own], str]:
    """Return completions drawn of the model with their problems, and in words how many or why there are none."""
    if not samples:
        return [], "none (--samples 0)"
    try:
        return _sampled(recipe, problems, samples), f"{samples} of each problem, drawn now"
    except UserError as error:
        return [], f"none ({error})"


def _sampled(recipe: Recipe, problems: Sequence[Problem], samples: int) -> list[Own]:
    from mathgrpo.formats import format_of
    from mathgrpo.models import load_policy, resolve_device
    from mathgrpo.rollout import build_engine
    from mathgrpo.rollout.groups import sample_groups
    from mathgrpo.training.recipe_task import sampling_of_step

    quiet_libraries()
    policy = load_policy(recipe.model, resolve_device(recipe.run.device), train=False)
    engine = build_engine(policy, recipe.run.engine)
    try:
        drawn = sample_groups(engine, policy, problems, format_of(recipe.format), samples, sampling_of_step(recipe, 0))
    finally:
        engine.close()
    return [(group.problem, text) for group in drawn for text in group.texts]
