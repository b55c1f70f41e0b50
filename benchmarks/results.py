"""Results files: every raw measurement, with the machine, the versions and the command they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from benchmarks.settings import Contestant, Record, Settings
from mathgrpo.errors import UserError

SCHEMA = 1


class Sample(Record):
    """One step of one contestant. Times in seconds, memory in bytes.

    Attributes:
        seconds: the whole step.
        rollout_s: tokenising prompts, sampling, decoding completions.
        reward_s: the reward functions.
        tokens: completion tokens sampled; longest: of the longest completion.
        prompt_tokens: of the step's prompts, each counted once.
        peak_bytes: the most memory since the contestant was ready.
        speed: this project's own figures of the step, as its log has them (mfu/update, roofline/rollout, …).
        logprob_difference: mean |sampler - trainer| log-probability of the sampled tokens, where it is known.
    """

    step: int
    seconds: float
    rollout_s: float
    reward_s: float
    tokens: int
    longest: int
    prompt_tokens: int
    peak_bytes: int
    resident_bytes: int
    logprob_difference: float | None
    speed: dict[str, float] = Field(default_factory=dict)

    @property
    def update_s(self) -> float:
        """All of the step that is neither rollout nor reward."""
        return self.seconds - self.rollout_s - self.reward_s

    @property
    def unique_tokens(self) -> int:
        """Prompt tokens once for each group, and completion tokens."""
        return self.prompt_tokens + self.tokens


class Row(Record):
    """A contestant's measurements.

    idle_cpu_s: processor seconds it used while it was not its turn, which should be none. failure: one line when it
    could not go on; samples are those before it.
    """

    contestant: Contestant
    samples: tuple[Sample, ...] = ()
    warmup: tuple[Sample, ...] = ()
    imported_bytes: int = 0
    prepare_s: float = 0.0
    idle_cpu_s: float = 0.0
    note: str = ""
    failure: str = ""


class Gradient(Record):
    """Our gradient beside TRL's, on a batch that TRL sampled. relative: |ours - TRL's| / |TRL's|, L2 norms.

    rounding, trl_rounding: the same distance of each side from the float32 gradient, below float32.
    """

    relative: float
    norm: float
    loss: float
    trl_loss: float
    tokens: int
    rounding: float | None = None
    trl_rounding: float | None = None


class Experiment(Record):
    """Contestants that took turns step by step."""

    name: str
    title: str
    settings: Settings
    rows: tuple[Row, ...]
    gradient: Gradient | None = None


class Point(Record):
    """One place on a scaling axis. parameters: of the model there, in all."""

    value: str
    parameters: int
    experiment: Experiment


class Axis(Record):
    """How cost grows along one setting, all others fixed. per_parameter: the model itself is what grows."""

    name: str
    title: str
    per_parameter: bool = False
    points: tuple[Point, ...]


class Results(Record):
    """A results file."""

    schema_version: Literal[1] = 1
    kind: Literal["bench", "bench-gpu", "quick", "tiny"]
    date: str
    command: str
    seconds: float = 0.0
    machine: dict[str, Any]
    versions: dict[str, str]
    experiments: tuple[Experiment, ...] = ()
    scaling: tuple[Axis, ...] = ()
    notes: tuple[str, ...] = ()


def write_results(results: Results, path: Path) -> None:
    """Write a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """Return what a results file holds.

    Raises: UserError when it is not there or is no results file of this version.
    """
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"results={path}: cannot be read ({error.strerror}); run make bench to make one") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"results={path}: no results file of version {SCHEMA} ({where}: {first['msg']})") from None
