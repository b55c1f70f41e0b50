"""The sweep: trial after trial, each told to the study; resumable at any moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mathgrpo.config import Recipe, recipe_to_toml
from mathgrpo.config.load_recipe import recipe_from_toml
from mathgrpo.errors import UserError, first_line
from mathgrpo.evaluation.evaluate import validation_reason
from mathgrpo.evaluation.records import reward_label
from mathgrpo.files import read_json_object, to_json, write_atomically
from mathgrpo.sweep.one_trial import CORRECT, TRIALS, OnEvaluation, Pruned, run_trial, trial_recipe, write_problems
from mathgrpo.sweep.space import Parameter, with_values
from mathgrpo.training import Interrupted

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

RECIPE, SETTINGS, BEST, DATABASE = "recipe.toml", "sweep.json", "best.toml", "sweep.db"
STARTUP_TRIALS = 4
"""Trials before anything is pruned, and before the sampler learns from what it has seen."""
FAILURES_AT_ONCE = 3
"""Trials failing one after the other before any has succeeded, after which a sweep stops: it is not the values."""

RunTrial = Callable[[Recipe, OnEvaluation], float]
Pruner = Literal["median", "asha", "none"]


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """What a sweep is, beside its recipe.

    Attributes:
        parameters: what varies.
        trials: how many in all.
        validation_size: problems that judge a trial.
        pruner: what stops trials early.
        objective: what is to be large: "correct", the accuracy, or a reward's name, its mean.
    """

    parameters: tuple[Parameter, ...]
    trials: int
    validation_size: int
    pruner: Pruner
    objective: str = CORRECT


def create_sweep(folder: Path, recipe: Recipe, settings: SweepSettings) -> None:
    """Make a sweep folder: recipe, problems, settings; the settings last, so that where they are the rest is whole.

    Raises: UserError when the folder is in use, cannot be made, or there are too few problems.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        how = f"go on with it by --resume {folder}, or " if (folder / SETTINGS).is_file() else ""
        raise UserError(f"--out {folder}: exists already; {how}choose another")
    write_problems(recipe, folder, settings.validation_size)
    write_atomically(folder / RECIPE, recipe_to_toml(recipe))
    write_settings(folder, settings)


def write_settings(folder: Path, settings: SweepSettings) -> None:
    """Write a sweep's settings."""
    write_atomically(folder / SETTINGS, to_json(asdict(settings), indent=1) + "\n")


def open_sweep(folder: Path) -> tuple[Recipe, SweepSettings]:
    """Return a sweep's recipe and settings.

    Raises: UserError when the folder is none of a sweep.
    """
    from pydantic import TypeAdapter, ValidationError

    if not (folder / SETTINGS).is_file():
        raise UserError(f"--resume {folder}: not a sweep folder (no {SETTINGS}); give the one that the sweep named")
    try:
        settings = TypeAdapter(SweepSettings).validate_python(read_json_object(folder / SETTINGS))
    except ValidationError as error:
        reason = validation_reason(error)
        raise UserError(f"{folder / SETTINGS}: not a sweep's settings ({reason}); begin a new sweep") from None
    return recipe_from_toml(Recipe, folder / RECIPE), settings


def run_sweep(
    folder: Path, recipe: Recipe, settings: SweepSettings, say: Callable[[str], None], run: RunTrial | None = None
) -> FrozenTrial:
    """Run the trials that are left and return the best of all; its recipe is then in best.toml.

    Raises: Interrupted after Ctrl-C, when the sweep can be resumed; UserError when trials fail whatever their values.
    """
    study = open_study(folder, recipe.run.seed, settings.pruner)
    failures: list[str] = []
    while len(finished(study)) < settings.trials:
        trial, values = next_trial(study, settings.parameters)
        say(f"trial {trial.number + 1}/{settings.trials}  {values_text(values)}")
        changed = trial_recipe(with_values(recipe, values), folder, trial.number, settings.validation_size)
        try:
            error = _one_trial(study, trial, changed, run or partial(run_trial, objective=settings.objective))
        except (Interrupted, KeyboardInterrupt) as stop:
            signum = stop.signum if isinstance(stop, Interrupted) else 2
            message = f"stopped in trial {trial.number + 1}; resume with: mathgrpo sweep --resume {folder}"
            raise Interrupted(signum, message) from None
        say("  " + outcome_text(study.get_trials(deepcopy=False)[trial.number], settings.objective))
        failures = [*failures, error] if error else []
        found = best(study)
        if found is not None:
            write_atomically(folder / BEST, recipe_to_toml(with_values(recipe, found.params)))
        elif len(failures) == FAILURES_AT_ONCE:
            raise UserError(f"sweep: the first {FAILURES_AT_ONCE} trials failed, the last with: {failures[-1]}")
    winner = best(study)
    if winner is None:
        raise UserError(f"sweep: none of {settings.trials} trials came to its end; see {folder / TRIALS}")
    return winner


def result_lines(
    folder: Path, settings: SweepSettings, winner: FrozenTrial, trials: Sequence[FrozenTrial]
) -> list[str]:
    """Return the sweep's end for a reader: its trials from the best down, and what to do next."""
    ranked = sorted(trials, key=lambda trial: (trial.state.name != "COMPLETE", -(trial.value or 0.0), trial.number))
    shown = [
        f"{trial.number + 1:>5}  {outcome_text(trial, settings.objective):<34}  {values_text(trial.params)}"
        for trial in ranked
    ]
    what = "accuracy" if settings.objective == CORRECT else f"reward {reward_label(settings.objective)}"
    return [
        f"trial  {f'validation {what}':<34}  settings",
        *shown,
        f"best    trial {winner.number + 1}: {values_text(winner.params)}",
        f"        on {settings.validation_size:,} validation problems taken out of training; the best of several is "
        "flattered by the choice",
        f"recipe  {folder / BEST}",
        f"next    mathgrpo train {folder / BEST}   (judges it on the held-out problems, which no trial has read)",
    ]


def outcome_text(trial: FrozenTrial, objective: str = CORRECT) -> str:
    """Return how a trial ended."""
    shown = "{:.3f}".format if objective != CORRECT else lambda value: f"{100 * value:.1f} %"
    if trial.state.name == "COMPLETE":
        return f"{'accuracy' if objective == CORRECT else 'reward'} {shown(trial.value or 0.0)}"
    if trial.state.name == "PRUNED":
        last = max(trial.intermediate_values, default=0)
        return f"pruned at step {last} with {shown(trial.intermediate_values.get(last, 0.0))}"
    return f"failed: {trial.user_attrs.get('error', 'unknown')}"


def values_text(values: dict[str, Any]) -> str:
    """Return a trial's values for a reader."""
    return "  ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}" for path, value in values.items()
    )


def _one_trial(study: Study, trial: Trial, recipe: Recipe, run: RunTrial) -> str:
    """Run a trial and tell the study how it ended; return the first line of the error that ended it, "" without one."""
    from optuna.trial import TrialState

    def on_evaluation(step: int, value: float) -> bool:
        if step not in study.get_trials(deepcopy=False)[trial.number].intermediate_values:  # by the process before
            trial.report(value, step)
        return bool(trial.should_prune())

    trial.set_user_attr("run", recipe.run.name)
    try:
        value = run(recipe, on_evaluation)
    except Interrupted:
        raise
    except Pruned:
        study.tell(trial, state=TrialState.PRUNED)
        return ""
    # One trial's values may break what others' do not, in whatever way (memory, a gradient that is not finite).
    except Exception as error:
        reason = first_line(error)
        trial.set_user_attr("error", reason)
        study.tell(trial, state=TrialState.FAIL)
        return reason
    study.tell(trial, value)
    return ""


def require_optuna() -> None:
    """Return when Optuna is installed.

    Raises: UserError that says what to install.
    """
    if find_spec("optuna") is None:
        raise UserError('sweep: needs optuna, which is not installed; run: pip install "mathgrpo[sweep]"')


def open_study(folder: Path, seed: int, pruner: Pruner) -> Study:
    """Return the study of a sweep folder, new or as it was left; larger values are better.

    Raises: UserError when its database is damaged or cannot be written.
    """
    import optuna
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database = (folder / DATABASE).absolute()
    try:
        storage = RDBStorage(f"sqlite:///{database}")
        study = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise UserError(f"{database}: the sweep's memory cannot be read ({reason}); begin a new sweep") from error
    # A sampler begins anew with each process; a seed that counts the trials keeps it from proposing the same again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=STARTUP_TRIALS)
    study.pruner = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        "asha": optuna.pruners.SuccessiveHalvingPruner(),
        "none": optuna.pruners.NopPruner(),
    }[pruner]
    return study


def next_trial(study: Study, parameters: Sequence[Parameter]) -> tuple[Trial, dict[str, Any]]:
    """Return the trial that was left unfinished, else a new one; and its values by path."""
    import optuna

    left = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
    trial = optuna.trial.Trial(study, left[0]._trial_id) if left else study.ask()
    return trial, {parameter.path: _suggest(trial, parameter) for parameter in parameters}


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that have ended, however they did."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def best(study: Study) -> FrozenTrial | None:
    """Return the best trial that came to its end, None without one. Of equal ones the first."""
    done = [trial for trial in finished(study) if trial.state.name == "COMPLETE"]
    return max(done, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def _suggest(trial: Trial, parameter: Parameter) -> Any:
    """Return the parameter's value in this trial; the same whenever it is asked for again."""
    if parameter.choices:
        return trial.suggest_categorical(parameter.path, parameter.choices)
    suggest: Any = trial.suggest_int if parameter.is_whole else trial.suggest_float
    return suggest(parameter.path, parameter.low, parameter.high, log=parameter.log)
