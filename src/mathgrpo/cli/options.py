"""Options of several commands; options that are wrong however good their values, told before any work begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.config.recipe import FormatSection, ProblemsSection
    from mathgrpo.formats import Format
    from mathgrpo.models import Policy
    from mathgrpo.rewards import RewardSuite
    from mathgrpo.rollout import Engine
    from mathgrpo.types import Problem

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; can be repeated.")
]
"""The option of every command that takes a recipe."""
Model = Annotated[str, typer.Argument(help='"starter", a run folder, a model folder or a hub id.')]
FormatName = Annotated[str, typer.Option("--format", help="Response format; default: the run's own, else xml.")]
TemplateArguments = Annotated[
    str,
    typer.Option("--chat-template-kwargs", metavar="JSON", help="Of the chat template; default: the run's own."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Plain = Annotated[
    bool, typer.Option("--plain", help="Decode by the model's own forward pass, not by the fastest decoder.")
]
"""What the commands share that take a model to draw from."""
CheckedProblems = Annotated[int, typer.Option(metavar="N", help="Held-out problems to solve again; 0: none.", min=0)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Precision of merged weights; auto: what the run computed in."),
]
CheckDevice = Annotated[str, typer.Option(help="auto, cpu or cuda: where it is scored again.")]
"""What the commands share that write or upload a model and then score it again."""

Columns = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="problems.columns.NAME=COLUMN", help="Name a column of the problems; repeatable."),
]
"""The option of the commands that read problems without a recipe."""
OWN_NAMES = {
    "check-data": {"problems.splits": "--split", "problems.columns.question": "--question-column",
                   "problems.columns.answer": "--answer-column"},
    "eval": {"problems.splits": "--split", "rollout.max_new_tokens": "--max-new-tokens"},
    "solve": {"problems.splits": "--split", "rollout.max_new_tokens": "--max-new-tokens"},
}  # fmt: skip
"""Command -> setting -> the option it has for it: an error speaks of what can be written there."""


EVERY = 1_000_000_000
"""Problems of a source, where all of them are meant."""


def refuse_idle(ctx: typer.Context, idle: Mapping[str, str], why: str) -> None:
    """Return unless an option was given that changes nothing in this command line.

    idle: parameter name -> the option as the user writes it. why: what it would need, or what to do instead.
    Raises: UserError that names the first one given.
    """
    for name, option in idle.items():
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{option}: {why}")


def require_appendable(option: str, path: Path) -> None:
    """Return when lines can be appended to a file; a folder that is missing is made, an empty file is not left behind.

    Raises: UserError otherwise.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror}); choose another file") from error


@contextmanager
def stops_told(says: str = "", *, speaks: bool = True) -> Iterator[None]:
    """Say how a run goes on that was stopped cleanly, `says` or its own words, and end with the signal's exit code.

    A process that does not speak ends without an error: a launcher would end the main one for it, which still saves.
    """
    from mathgrpo.runs.interrupt import Interrupted

    try:
        yield
    except Interrupted as stop:
        if speaks:
            print(says or stop)
        raise typer.Exit(stop.exit_code if speaks else 0) from None


def open_policy(model: str, device: str) -> Policy:
    """Return a model to draw from, the libraries told to leave the terminal to us."""
    from mathgrpo.config.recipe import ModelSection
    from mathgrpo.models import load_policy

    quiet_libraries()
    return load_policy(ModelSection(path=model), device, train=False)


def chosen_problems(own: ProblemsSection, source: str, split: str, columns: Sequence[str] = ()) -> ProblemsSection:
    """Return where problems are read from: the run's own place, with its columns, unless another one is named.

    columns: as the option --set of these commands has them.
    """
    from mathgrpo.config.recipe import ProblemsSection

    section = own if source in ("", own.source) else ProblemsSection(source=source)
    if columns:
        section = section.model_copy(update={"columns": section.columns | _columns(columns)})
    return section.model_copy(update={"splits": (section.train_split, split)}) if split else section


def chosen_format(own: FormatSection, name: str, arguments: str) -> FormatSection:
    """Return how a model is asked: as its run does, unless a format or arguments of the chat template are given.

    Raises: UserError for arguments that are no JSON object.
    """
    import json

    changes: dict[str, object] = {"name": name} if name else {}
    if arguments:
        try:
            changes["chat_template_kwargs"] = json.loads(arguments)
        except ValueError:
            changes["chat_template_kwargs"] = None
        if not isinstance(changes["chat_template_kwargs"], dict):
            raise UserError(
                f"--chat-template-kwargs {arguments}: is no JSON object; write it as in "
                """--chat-template-kwargs '{"enable_thinking": false}'"""
            )
    return own.model_copy(update=changes)


def _columns(overrides: Sequence[str]) -> dict[str, str]:
    """Return the columns that overrides name.

    Raises: UserError when one is of something else.
    """
    from mathgrpo.config import Recipe
    from mathgrpo.config.load_recipe import validated
    from mathgrpo.config.overrides import overridden

    for each in overrides:
        if not each.strip().startswith("problems.columns."):
            raise UserError(f"--set {each}: only columns are set here; write problems.columns.NAME=COLUMN")
    return validated(Recipe, overridden(Recipe, {}, overrides)).problems.columns


def open_engine(
    model: str,
    device: str,
    problems: Sequence[Problem],
    source: str,
    fmt: Format,
    max_new_tokens: int,
    *,
    plain: bool = False,
    suite: RewardSuite | None = None,
) -> tuple[Policy, Engine]:
    """Return a model and what draws its completions of problems, all of which can be asked and graded.

    suite: the rewards that judge them; where none of them goes by the golds, these need not be gradable.

    Raises: UserError when one cannot.
    """
    from mathgrpo.answers.gold_check import require_golds
    from mathgrpo.answers.prompt_check import require_answerable
    from mathgrpo.rewards.pre_run_check import grades_golds
    from mathgrpo.rollout import build_engine
    from mathgrpo.training.prepare import require_prompts_fit

    if suite is None or grades_golds(suite):
        require_golds(problems, fmt, source)
    policy = open_policy(model, device)
    require_answerable(policy.tokenizer, fmt, problems[0])
    require_prompts_fit(problems, policy, fmt, max_new_tokens)
    return policy, build_engine(policy, "plain" if plain else "fast")


def quiet_libraries() -> None:
    """Switch off the libraries' notices and their bars for small local files; downloads keep their bar."""
    import logging as standard
    import warnings

    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    standard.getLogger("bitsandbytes").setLevel(standard.ERROR)  # says on every import which kernel package is absent
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.disable_progress_bar()
    enable_progress_bars()


WITHOUT_SOLUTION = {"think_leaky": "think"}
"""Format that shows the solution in the prompt -> the same layout without it."""


def run_recipe(model: str) -> Recipe:
    """Return the recipe of the run a model belongs to (its folder, a checkpoint, an export), else the defaults.

    A format that shows solutions in the prompt becomes its sound one: who asks a question has no solution to show, and
    an evaluation is to measure reasoning.
    """
    from mathgrpo.config import Recipe
    from mathgrpo.config.load_recipe import validated
    from mathgrpo.files import read_json_object
    from mathgrpo.models.locate import run_of
    from mathgrpo.publishing.source import recipe_of_run

    folder = Path(model).expanduser()
    if (exported := folder / "export.json").is_file():
        record = read_json_object(exported)
        rollout = {"max_new_tokens": record.get("max_new_tokens")}
        form = {"name": record.get("format"), "chat_template_kwargs": record.get("chat_template_kwargs", {})}
        kept: dict[str, Any] = {
            name: record[name] for name in ("rewards", "reward_settings", "evaluation") if name in record
        }
        recipe = validated(Recipe, {"format": form, "rollout": rollout, **kept})
    else:
        run = run_of(folder)
        recipe = recipe_of_run(run) if run is not None else Recipe()
    sound = WITHOUT_SOLUTION.get(recipe.format.name, recipe.format.name)
    return recipe.model_copy(update={"format": recipe.format.model_copy(update={"name": sound})})
