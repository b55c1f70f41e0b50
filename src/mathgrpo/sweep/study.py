"""The sweep's memory: an Optuna study in an SQLite file of the sweep folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mathgrpo.errors import UserError, first_line
from mathgrpo.sweep.space import Parameter

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

DATABASE, STUDY = "sweep.db", "sweep"
Pruner = Literal["median", "asha", "none"]
STARTUP_TRIALS = 4
"""Trials before anything is pruned, and before the sampler learns from what it has seen."""


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
        study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True)
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
    assert parameter.low is not None and parameter.high is not None
    if parameter.is_whole:
        return trial.suggest_int(parameter.path, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(parameter.path, float(parameter.low), float(parameter.high), log=parameter.log)
