"""mathgrpo solve --problems: graded traces of problems with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mathgrpo.cli.chosen_suite import chosen_suite
from mathgrpo.cli.options import EVERY, chosen_problems, open_engine, require_appendable, run_recipe, stops_told
from mathgrpo.errors import UserError
from mathgrpo.types import Problem, Sampling

if TYPE_CHECKING:
    from mathgrpo.config.recipe import FormatSection, ProblemsSection


def solve_problems(
    model: str, source: str, split: str, limit: int, form: FormatSection, sampling: Sampling, jsonl: Path | None, *,
    samples: int, keep: Literal["correct", "all"], device: str, plain: bool, correct: str = "",
    columns: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write the traces, and say how many there are. The arguments are the command's options.

    Raises: UserError for bad input; typer.Exit after Ctrl-C, with the file in order.
    """
    if jsonl is None:
        raise UserError("--jsonl: nothing given; name the file that the traces of --problems go to")
    if sampling.temperature == 0.0 and samples > 1:
        raise UserError(
            f"--samples {samples}: all would be the same at --temperature 0; use --samples 1 or a temperature"
        )
    require_appendable("--jsonl", jsonl)
    from mathgrpo.evaluation.records import counted_by
    from mathgrpo.evaluation.solved_traces import TraceFile, write_traces
    from mathgrpo.formats import format_of
    from mathgrpo.models.locate import locate_model
    from mathgrpo.runs.interrupt import Interrupted, StopRequests
    from mathgrpo.runs.progress import make_progress

    location, recipe = locate_model(model), run_recipe(model)
    chosen = format_of(form)
    problems = problems_to_solve(source, split, limit, recipe.problems, columns)
    suite = chosen_suite(recipe, chosen, correct, problems, print)
    judged = {} if suite.correct is None else {"correct": str(suite.correct)}
    # What a trace depends on, without a path of this machine.
    file = TraceFile(jsonl, {
        "checkpoint": Path(location).name, "problems": Path(source).name, "split": split, "samples": samples,
        "keep": keep, "format": chosen.name, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "seed": sampling.seed, "max_new_tokens": sampling.max_new_tokens, **judged,
        **({"chat_template_kwargs": chosen.chat_template_kwargs} if chosen.chat_template_kwargs else {}),
    })  # fmt: skip
    policy, engine = open_engine(
        model, device, problems, source, chosen, sampling.max_new_tokens, plain=plain, suite=suite
    )
    stopped = f"stopped; {jsonl} keeps what is written, and the same command goes on from there"
    with stops_told(stopped), StopRequests() as stop, make_progress() as progress:

        def on_batch(done: int, total: int) -> None:
            progress.doing("solving", done * samples, total * samples)
            if stop.received:
                raise Interrupted(stop.received)

        counts = write_traces(
            engine, policy, problems, chosen, file, samples=samples, sampling=sampling, keep=keep, on_batch=on_batch,
            suite=suite,
        )  # fmt: skip
    repeated = f", {counts.repeated:,} repeats left out" if counts.repeated else ""
    print(
        f"{counts.written:,} traces written to {jsonl}: {counts.correct:,} of {counts.drawn:,} completions correct"
        f"{counted_by(judged.get('correct', ''))[9:-1]} ({100 * counts.correct / counts.drawn:.1f} %){repeated}"
        if counts.drawn
        else f"{jsonl}: nothing left to do"
    )


def problems_to_solve(
    source: str, split: str, limit: int, own: ProblemsSection, columns: Sequence[str] = ()
) -> Sequence[Problem]:
    """Return the problems of a split in their order: all of a single file, for "generated" those training reads.

    own: the run's section, whose columns are read when it names the same source.
    Raises: UserError when the source cannot be read.
    """
    from mathgrpo.problems import load_heldout, load_problem_sets

    section = chosen_problems(own, source, split, columns)
    if source != "generated":
        problems = load_heldout(section.model_copy(update={"heldout_size": EVERY})).heldout
        return problems[:limit] if limit else problems
    if split != "train":
        raise UserError(f"--split {split}: generated problems are solved from train only")
    return load_problem_sets(section.model_copy(update={"train_size": limit or section.train_size})).train
