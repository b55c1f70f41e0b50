"""Which stages there are, in the order of what they are worth to somebody whose machine may be taken back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the kit, run in processes of its own.

    Attributes:
        name: also the name of its file in `stages/`.
        title: for the page.
        limit_s: seconds it may take on a GPU.
        rehearsal_s: seconds it may take in a rehearsal on two CPU cores.
        hidden: run only where it is named; the tests' own.
    """

    name: str
    title: str
    limit_s: float
    rehearsal_s: float = 120.0
    hidden: bool = False


STAGES = (
    Stage("facts", "The card, and what it gives", 30),
    Stage("correctness", "Whether it computes what it should", 125),
    Stage("decoding", "Rollouts", 90),
    Stage("updating", "The update", 100),
    Stage("whole_step", "A whole step", 45),
    Stage("against_trl", "Against TRL, one process at a time", 170, 300),
    Stage("recipe_memory", "Memory of the reference recipes' true shapes", 90),
    Stage("product", "The commands a user runs", 120, 300),
    Stage("starter", "Training the starter for the minutes left", 300),
    Stage("mishaps", "Cases that fail, hang, die and run out of memory", 30, 30, hidden=True),
)
LEAST_S = 12.0
"""With fewer seconds left no stage is begun: that is what starting a process and importing torch take."""


def named(names: list[str]) -> tuple[list[Stage], list[str]]:
    """Return the stages of these names in the kit's order, all but hidden ones for none; and the names unknown.

    Example:
        >>> [stage.name for stage in named(["updating", "facts"])[0]]
        ['facts', 'updating']
    """
    known = {stage.name for stage in STAGES}
    wanted = names or [stage.name for stage in STAGES if not stage.hidden]
    return [stage for stage in STAGES if stage.name in wanted], [name for name in names if name not in known]
