"""What a sweep varies: settings of a recipe, each with its range or its choices."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import require_possible, validated
from mathgrpo.config.overrides import overridden, parse_value
from mathgrpo.errors import UserError, first_line

HOW = "write PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=ONE,TWO,THREE"
FIXED = ("run.", "problems.", "training.steps", "training.trackers", "evaluation.correct")
"""Settings a sweep decides itself, or that would make trials incomparable."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting that varies.

    Attributes:
        path: "optimizer.learning_rate".
        low, high: ends of the range, both possible; None for choices.
        log: draw the logarithm evenly.
        choices: values to choose from; () for a range.
    """

    path: str
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the range is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def text(self) -> str:
        """Return it as the user writes it."""
        if self.choices:
            return f"{self.path}={','.join(str(choice) for choice in self.choices)}"
        return f"{self.path}={self.low}..{self.high}{':log' if self.log else ''}"


def default_space(recipe: Recipe) -> tuple[Parameter, ...]:
    """Return what is varied when the user names nothing: learning rate, KL weight, group size."""
    rate = recipe.optimizer.learning_rate
    return (
        Parameter("optimizer.learning_rate", rate / 10, min(rate * 10, 0.1), log=True),
        Parameter("grpo.beta", choices=(0.0, 0.01, 0.04)),
        Parameter("rollout.group_size", choices=(4, 8, 16)),
    )


def parse_parameters(texts: Sequence[str], recipe: Recipe) -> tuple[Parameter, ...]:
    """Return the parameters that the user names, each tried on the recipe at its ends.

    Raises: UserError for a form that is none, a field that does not exist, a value that is not allowed.
    """
    parameters = tuple(parse_parameter(text) for text in texts)
    for path, times in Counter(parameter.path for parameter in parameters).items():
        if times > 1:
            raise UserError(f"--param {path}: given twice; keep one")
    for parameter in parameters:
        _require_allowed(parameter, recipe)
    return parameters


def parse_parameter(text: str) -> Parameter:
    """Return one parameter.

    Raises: UserError when the text has another form or the range is none.

    Example:
        >>> parse_parameter("optimizer.learning_rate=1e-6..1e-4:log").text()
        'optimizer.learning_rate=1e-06..0.0001:log'
        >>> parse_parameter("rollout.group_size=4,8").choices
        (4, 8)
    """
    path, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not path or not values:
        raise UserError(f"--param {text}: not a parameter; {HOW}")
    if ".." not in values:
        choices = tuple(parse_value(choice.strip(), as_text=False) for choice in values.split(","))
        if len(choices) < 2 or len(set(choices)) < len(choices) or "" in choices:
            raise UserError(f"--param {text}: give at least two different choices; {HOW}")
        return Parameter(path, choices=choices)
    ends, colon, kind = values.partition(":")
    if colon and kind != "log":
        raise UserError(f"--param {text}: {kind!r} is no way to draw; allowed: log")
    low, high = (parse_value(end.strip(), as_text=False) for end in ends.split("..", 1))
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end):
            raise UserError(f"--param {text}: {end!r} is not a number; {HOW}")
    if low >= high:
        raise UserError(f"--param {text}: the lower end must be below the upper one")
    if colon and low <= 0:
        raise UserError(f"--param {text}: a logarithm needs a lower end above 0")
    return Parameter(path, low, high, log=bool(colon))


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with these settings.

    Raises: UserError when they are not allowed, alone or together.
    """
    texts = [f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in values.items()]
    data = recipe.model_dump(mode="json", exclude_none=True)
    return require_possible(validated(Recipe, overridden(Recipe, data, texts)))


def _require_allowed(parameter: Parameter, recipe: Recipe) -> None:
    if parameter.path.startswith(FIXED):
        raise UserError(
            f"--param {parameter.text()}: {parameter.path} is the same in every trial; vary other settings, such as "
            "optimizer.learning_rate"
        )
    for value in parameter.choices or (parameter.low, parameter.high):
        try:
            with_values(recipe, {parameter.path: value})
        except UserError as error:
            raise UserError(f"--param {parameter.text()}: {first_line(error)}") from None
