"""mathgrpo eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathgrpo.cli.chosen_suite import Correct, chosen_suite
from mathgrpo.cli.options import (
    EVERY,
    Columns,
    Device,
    FormatName,
    Model,
    TemplateArguments,
    chosen_format,
    chosen_problems,
    open_engine,
    run_recipe,
)
from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.evaluation import Evaluation

GENERATED_LIMIT = 500
NAME = "evaluation"


def eval_command(
    model: Model,
    problems: Annotated[
        str, typer.Option(help="generated, a file or folder, or a hub id; default: the run's own, else generated.")
    ] = "",
    split: Annotated[str, typer.Option(help="Split, or file stem in a folder; default: test.")] = "",
    columns: Columns = None,
    fmt: FormatName = "",
    correct: Correct = "",
    template: TemplateArguments = "",
    samples: Annotated[int, typer.Option(help="Sampled completions a problem, beside the greedy one.", min=0)] = 0,
    temperature: Annotated[float, typer.Option(help="Of the samples.", min=0.01, max=5.0)] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of the samples.", min=0.01, max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the samples.", min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens at most; default: the run's own, else 256.", min=0)] = 0,
    limit: Annotated[
        int, typer.Option(help="Problems at most; default: all of a file or hub set, 500 generated ones.", min=0)
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Write per-problem results and the summary to OUT/eval/.")] = None,
    name: Annotated[str, typer.Option(help="Their name there.")] = NAME,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this evaluation: eval/NAME.json, or the folder of one.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure a model: accuracy with its 95 % interval, format, length; and compare it with another evaluation.

    \b
    Examples:
      mathgrpo eval starter --limit 200 --samples 4
      mathgrpo eval runs/my-run --problems data/gsm8k --split test --out results
      mathgrpo eval runs/my-run --against runs/my-run/eval/before.json
    """
    from mathgrpo.evaluation import evaluation_names, write_evaluation

    before = read_against(against) if against is not None else None
    if out is not None and name in evaluation_names(out):
        raise UserError(f"--out {out}: it has an evaluation named {name} already; choose another with --name")
    recipe = evaluation_recipe(
        model, problems=problems, split=split, fmt=fmt, template=template, limit=limit, max_new_tokens=max_new_tokens,
        columns=columns or (),
    )  # fmt: skip
    settings = {"samples": samples, "temperature": temperature, "top_p": top_p, "seed": seed}
    drawing = Drawing(recipe, model, device, correct, settings)
    for suffix in drawing.sets:
        evaluation = drawing.evaluation(suffix, out, name + suffix)
        print("\n".join(summary_lines(evaluation, suffix)))
        if out is not None:
            print(f"written to  {write_evaluation(evaluation, out, name + suffix)}")
        if before is not None and not suffix:
            print("\n".join(comparison_lines(drawing.rescored(before), evaluation)))


def evaluation_recipe(
    model: str, *, problems: str, split: str, fmt: str, limit: int, max_new_tokens: int, template: str = "",
    columns: Sequence[str] = (),
) -> Recipe:  # fmt: skip
    """Return a recipe that says what to evaluate on and how: the run's own unless told otherwise."""
    own = run_recipe(model)
    section = chosen_problems(own.problems, problems, split, columns)
    if limit or problems:
        every = GENERATED_LIMIT if section.place == "generated" else EVERY
        section = section.model_copy(update={"heldout_size": limit or every})
    rollout = own.rollout.model_copy(update={"max_new_tokens": max_new_tokens} if max_new_tokens else {})
    form = chosen_format(own.format, fmt, template)
    return own.model_copy(update={"problems": section, "format": form, "rollout": rollout})


def read_against(path: Path) -> Evaluation:
    """Return the evaluation a user points at: its file, or a folder with one in eval/.

    Raises: UserError when there is none, or several and none is named evaluation or after.
    """
    from mathgrpo.evaluation import evaluation_names, read_evaluation

    if path.suffix in (".json", ".jsonl") and path.resolve().parent.name == "eval":
        return read_evaluation(path.resolve().parents[1], path.stem)
    folder = path.parent if path.name == "eval" else path
    names = evaluation_names(folder)
    chosen = next((name for name in (NAME, "after") if name in names), names[0] if len(names) == 1 else None)
    if chosen is None:
        there = f"there are {', '.join(names)}" if names else "there is no eval folder with one"
        raise UserError(
            f"--against {path}: which evaluation? {there}; give the file, as in {folder / 'eval' / 'before.json'}"
        )
    return read_evaluation(folder, chosen)


def summary_lines(evaluation: Evaluation, suffix: str) -> list[str]:
    """Return an evaluation for a reader: greedy numbers, and the samples' beside them."""
    from mathgrpo.evaluation.records import reward_label
    from mathgrpo.evaluation.reward_change import number

    summary, settings = evaluation.summary(), evaluation.settings
    kinds = [("greedy", "")] + ([(f"{settings.samples} samples", "sampled/")] if settings.samples else [])
    what = "problems of held-out templates" if suffix else "problems"
    lines = [
        f"{settings.model} on {summary['problems']:,} {what}, format {settings.format}, "
        f"at most {settings.max_new_tokens} tokens"
    ]
    for kind, prefix in kinds:
        get = {key.removeprefix(prefix): value for key, value in summary.items() if key.startswith(prefix)}
        anywhere = [f"  anywhere    {_percent(get['accuracy_flexible'])} with an answer from anywhere in the text"]
        lines += [
            f"{kind}:",
            f"  accuracy    {_percent(get['accuracy'])}{evaluation.by or ' in the format'}, 95 % interval "
            f"[{100 * get['accuracy_low']:.1f}, {100 * get['accuracy_high']:.1f}]",
            *(() if evaluation.by else anywhere),
            f"  format      {_percent(get['format_rate'])} exactly, {_percent(get['format_rate_soft'])} nearly",
            f"  working     {_percent(get['worked_rate'])} show a calculation",
            f"  length      {get['mean_length']:.1f} tokens on average, {_percent(get['clipped_ratio'])} cut off",
        ]
        chances = [f"{key} {_percent(value)}" for key, value in get.items() if key.startswith(("pass@", "maj@"))]
        lines += [f"  samples     {', '.join(chances)}"] if chances and prefix else []
        paid = [f"{reward_label(key[7:])} {number(value)}" for key, value in get.items() if key.startswith("reward/")]
        lines += [f"  rewards     {', '.join(paid)}"] if paid else []
    return lines


def comparison_lines(before: Evaluation, after: Evaluation) -> list[str]:
    """Return the paired comparison for a reader, greedy and, where both have samples, sampled."""
    from mathgrpo.evaluation import compare, gain_parts, reward_changes, verdict_line
    from mathgrpo.evaluation.records import ANSWER
    from mathgrpo.runs.run_folder import gain_line

    compared = compare(before, after)
    parts = gain_line(gain_parts(before, after), by_answer=compared.correct == ANSWER)
    lines = [verdict_line(compared, "accuracy"), parts, *(f"  {each.line}" for each in reward_changes(before, after))]
    if all(record.samples for record in (*before.records, *after.records)):
        lines.append(verdict_line(compare(before, after, metric="sampled"), "sampled accuracy"))
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


class Drawing:
    """What is evaluated: the model with its engine, and the problems by name suffix, held-out templates apart.

    correct: what counts as correct, "": as in the recipe. settings: those of the samples.
    """

    def __init__(self, recipe: Recipe, model: str, device: str, correct: str, settings: dict[str, Any]) -> None:
        from mathgrpo.formats import format_of
        from mathgrpo.models.locate import locate_model
        from mathgrpo.problems import load_heldout

        locate_model(model)  # a name with nothing behind it is told before problems are read
        self._fmt, sets = format_of(recipe.format), load_heldout(recipe.problems)
        self.sets = {"": sets.heldout} | ({"-templates": sets.heldout_templates} if sets.heldout_templates else {})
        every = (*sets.heldout, *sets.heldout_templates)
        self._suite = chosen_suite(recipe, self._fmt, correct, every, print)
        self._settings = settings | {"max_new_tokens": recipe.rollout.max_new_tokens}
        self._policy, self._engine = open_engine(
            model, device, every, recipe.problems.source, self._fmt, recipe.rollout.max_new_tokens, suite=self._suite
        )

    def evaluation(self, suffix: str, out: Path | None, name: str) -> Evaluation:
        """Return the evaluation of a set; what there is of one that a reward function ends is written to `out`."""
        from mathgrpo.evaluation.evaluate import RewardFault, evaluate, write_records
        from mathgrpo.runs.progress import make_progress

        try:
            with make_progress() as progress:
                return evaluate(
                    self._engine, self._policy, self.sets[suffix], self._fmt, suite=self._suite, **self._settings,
                    on_progress=lambda done, total: progress.doing(f"evaluation{suffix}", done, total),
                )  # fmt: skip
        except RewardFault as fault:
            if out is None:
                raise
            kept = f"{len(fault.evaluation.records):,} problems are in {write_records(fault.evaluation, out, name)}"
            raise UserError(f"{fault}; {kept}") from fault

    def rescored(self, before: Evaluation) -> Evaluation:
        """Return an earlier evaluation, scored anew where it counts something else as correct."""
        from mathgrpo.evaluation.one_scale import scored_by

        correct = "answer" if self._suite.correct is None else str(self._suite.correct)
        return before if before.settings.correct == correct else scored_by(self._suite, before, self.sets[""])
