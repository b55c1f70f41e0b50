"""mathgrpo solve --problems: graded traces of problems with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from mathgrpo.cli.options import open_policy, require_appendable
from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.evaluation.solved_traces import TraceCounts
    from mathgrpo.types import Problem


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """What the user asks for, by the names of the command's options."""

    model: str
    problems: str
    split: str
    samples: int
    keep: Literal["correct", "all"]
    limit: int
    fmt: str
    top_p: float
    temperature: float
    seed: int
    max_new_tokens: int
    device: str
    plain: bool


def solve_problems(request: TraceRequest, jsonl: Path | None) -> None:
    """Write the traces, and say how many there are.

    Raises: UserError for bad input; typer.Exit after Ctrl-C, with the file in order.
    """
    from mathgrpo.runs.interrupt import Interrupted

    if jsonl is None:
        raise UserError("--jsonl: nothing given; name the file that the traces of --problems go to")
    if request.temperature == 0.0 and request.samples > 1:
        raise UserError(
            f"--samples {request.samples}: all would be the same at --temperature 0; use --samples 1 or a temperature"
        )
    require_appendable("--jsonl", jsonl)
    try:
        counts = _write(request, jsonl)
    except Interrupted as stop:
        print(f"stopped; {jsonl} keeps what is written, and the same command goes on from there")
        raise typer.Exit(stop.exit_code) from None
    repeated = f", {counts.repeated:,} repeats left out" if counts.repeated else ""
    print(
        f"{counts.written:,} traces written to {jsonl}: {counts.correct:,} of {counts.drawn:,} completions correct "
        f"({100 * counts.correct / counts.drawn:.1f} %){repeated}"
        if counts.drawn
        else f"{jsonl}: nothing left to do"
    )


def _write(request: TraceRequest, jsonl: Path) -> TraceCounts:
    from mathgrpo.answers.gold_check import require_golds
    from mathgrpo.cli.options import run_recipe
    from mathgrpo.evaluation.solved_traces import TraceFile, write_traces
    from mathgrpo.formats import get_format
    from mathgrpo.models.locate import locate_model
    from mathgrpo.rollout import build_engine
    from mathgrpo.runs.interrupt import Interrupted, StopRequests
    from mathgrpo.runs.progress import make_progress
    from mathgrpo.training.prepare import require_prompts_fit
    from mathgrpo.types import Sampling

    location = locate_model(request.model)
    recipe = run_recipe(request.model)
    fmt = get_format(request.fmt or recipe.format.name)
    problems = problems_to_solve(request, recipe)
    require_golds(problems, fmt, request.problems)
    sampling = Sampling(
        max_new_tokens=request.max_new_tokens, temperature=request.temperature, top_p=request.top_p, seed=request.seed
    )
    file = TraceFile(jsonl, _settings(request, fmt.name, location))
    policy = open_policy(request.model, request.device)
    require_prompts_fit(problems, policy, fmt, request.max_new_tokens)
    with StopRequests() as stop, make_progress() as progress:

        def on_batch(done: int, total: int) -> None:
            progress.doing("solving", done * request.samples, total * request.samples)
            if stop.received:
                raise Interrupted(stop.received)

        return write_traces(
            build_engine(policy, "plain" if request.plain else "fast"), policy, problems, fmt, file,
            samples=request.samples, sampling=sampling, keep=request.keep, on_batch=on_batch,
        )  # fmt: skip


def problems_to_solve(request: TraceRequest, recipe: Recipe) -> Sequence[Problem]:
    """Return the problems of a split in their order: all of a single file, for "generated" those training reads.

    The columns are the run's own when the source is.
    Raises: UserError when the source cannot be read.
    """
    from mathgrpo.config.recipe import ProblemsSection
    from mathgrpo.problems import load_heldout, load_problem_sets

    section = recipe.problems if request.problems == recipe.problems.source else ProblemsSection()
    section = section.model_copy(update={"source": request.problems, "splits": (section.train_split, request.split)})
    if request.problems == "generated":
        if request.split != "train":
            raise UserError(f"--split {request.split}: generated problems are solved from train only")
        size = request.limit or section.train_size
        problems: Sequence[Problem] = load_problem_sets(section.model_copy(update={"train_size": size})).train
    else:
        problems = load_heldout(section.model_copy(update={"heldout_size": 1_000_000_000})).heldout
    return problems[: request.limit] if request.limit else problems


def _settings(request: TraceRequest, fmt: str, location: str) -> dict[str, Any]:
    """Return what a trace depends on, without a path of this machine."""
    return {
        "checkpoint": Path(location).name, "problems": Path(request.problems).name, "split": request.split,
        "samples": request.samples, "keep": request.keep, "format": fmt, "temperature": request.temperature,
        "top_p": request.top_p, "seed": request.seed, "max_new_tokens": request.max_new_tokens,
    }  # fmt: skip
