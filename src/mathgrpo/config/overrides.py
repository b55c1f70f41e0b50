"""Command-line overrides: "section.key=value" laid over a recipe's TOML data."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from mathgrpo.config.recipe_fields import field_at, mapping_default, plain_name
from mathgrpo.errors import UserError


def overridden(model: type[BaseModel], data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the data with each "section.key=value" applied from left to right.

    Raises: UserError when one does not have that form or goes through something that is no section.
    """
    result = copy.deepcopy(data)
    for override in overrides:
        path, text = parse_override(override)
        _place(model, result, split_path(model, path), text, override)
    return result


def parse_override(override: str) -> tuple[str, str]:
    """Return the path and the value text of one override.

    Example:
        >>> parse_override("rollout.group_size = 4")
        ('rollout.group_size', '4')
    """
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not path or not all(part.strip() for part in path.split(".")):
        raise UserError(f"--set {override}: not an override; write section.key=value, such as training.steps=50")
    return path, text.strip()


def split_path(model: type[BaseModel], path: str) -> list[str]:
    """Return the keys of a path. Below a table with free names (rewards) the rest is one key, dots and all.

    In reward_settings, whose free names are tables themselves, what follows the last dot is a key of such a table.
    """
    head, _, rest = path.partition(".")
    if rest and mapping_default(model, head) is not None:
        name, dot, key = rest.rpartition(".") if head == "reward_settings" else (rest, "", "")
        return [head, name.strip("\"'"), key] if dot else [head, (name or key).strip("\"'")]
    return path.split(".")


def parse_value(text: str, *, as_text: bool) -> Any:
    """Return a value in TOML syntax; what is none is text without quotes.

    as_text: the field takes text, so 7 and true are text too, unless quoted anyway.

    Example:
        >>> parse_value("0.5", as_text=False), parse_value("cosine", as_text=False), parse_value("7", as_text=True)
        (0.5, 'cosine', '7')
    """
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table.get("value")
    if len(table) != 1 or (as_text and not isinstance(value, str)):
        return text
    return value


def _place(model: type[BaseModel], data: dict[str, Any], keys: list[str], text: str, override: str) -> None:
    """Set the value where the keys lead, making the tables on the way."""
    here: Any = data
    for depth, key in enumerate(keys[:-1]):
        here = _enter(model, here, keys[: depth + 1], key, override)
    if isinstance(here, list):
        name = plain_name(keys[:-1])
        raise UserError(f"--set {override}: {name} is a list of tables; name a key of one, as in {name}.0.KEY=VALUE")
    field = field_at(model, keys)
    if text == "none" and field is not None and type(None) in get_args(field.annotation):
        here.pop(keys[-1], None)
        return
    here[keys[-1]] = parse_value(text, as_text=field is not None and field.annotation is str)


def _enter(model: type[BaseModel], here: Any, path: list[str], key: str, override: str) -> Any:
    """Return the table or list one step down."""
    if isinstance(here, list):
        if not key.isdigit() or int(key) >= len(here):
            there = f"entries 0 to {len(here) - 1}" if here else "no entries"
            raise UserError(f"--set {override}: {plain_name(path[:-1])} has {there}, not {key}")
        return here[int(key)]
    if key not in here:
        # Named weights are laid over the default ones, not put in their place.
        default = mapping_default(model, key) if len(path) == 1 else None
        here[key] = dict(default or {})
    if not isinstance(here[key], (dict, list)):
        raise UserError(f"--set {override}: {plain_name(path)} is a value, not a section; nothing can be set below it")
    return here[key]


KEEP_CHECKPOINTS, LOG_GROUPS = "MATHGRPO_KEEP_CHECKPOINTS", "MATHGRPO_LOG_GROUPS"
PEER_TIMEOUT, PROJECT = "MATHGRPO_PEER_TIMEOUT_S", "MATHGRPO_PROJECT"


def kept_checkpoints() -> int:
    """Return how many checkpoints of a run stay; older ones are removed."""
    return int(_number(KEEP_CHECKPOINTS, 2, least=1))


def logged_groups() -> int:
    """Return how many groups of completions are written to rollouts.jsonl each step."""
    return int(_number(LOG_GROUPS, 4, least=0))


def peer_timeout_s() -> float:
    """Return the seconds that one of several processes waits for another before the run ends with an error."""
    return _number(PEER_TIMEOUT, 1800, least=1)


def tracker_project() -> str:
    """Return the project under which trackers file a run."""
    return os.environ.get(PROJECT) or "mathgrpo"


def _number(name: str, default: float, *, least: float) -> float:
    """Return the number in a variable.

    Raises: UserError when it holds something else, or a smaller number.
    """
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = least - 1
    if not least <= value < 1e9:
        raise UserError(f"{name}={text}: not a number of {least:g} or more; set one, or leave the variable unset")
    return value
