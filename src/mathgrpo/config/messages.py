"""pydantic's complaints in the user's words: one line each, with field, value, what is allowed and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from mathgrpo.config.gone_settings import refusal
from mathgrpo.config.recipe_fields import allowed, field_at, paths_of, plain_name, section_at, shown
from mathgrpo.errors import did_you_mean

BECAUSE = {"rollout.group_size": "every advantage would be 0; use 2 or more"}
"""Why a number is too small, where the bound alone does not say it."""

_GRPO_ONLY = ("rollout", "grpo", "rewards", "reward_settings")
ELSEWHERE = {"stages": "mathgrpo sft"} | dict.fromkeys(_GRPO_ONLY, "mathgrpo train")
"""Section -> the command whose recipes have it."""


def validation_lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each problem of a recipe, in the order of its sections.

    One line alone where a section belongs to another command: the rest of such a recipe is right there.
    """
    problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors(include_url=False)]
    misplaced = [problem for problem in problems if _is_elsewhere(problem["loc"], model)]
    return [_line(problem, model) for problem in misplaced[:1] or problems]


def _is_elsewhere(path: tuple[Any, ...], model: type[BaseModel]) -> bool:
    return len(path) == 1 and path[0] in ELSEWHERE and path[0] not in model.model_fields


def _line(problem: dict[str, Any], model: type[BaseModel]) -> str:
    path, value = problem["loc"], problem["input"]
    if problem["type"] == "extra_forbidden":
        return _unknown(path, value, model)
    name, field = plain_name(path), field_at(model, path)
    if name in BECAUSE and problem["type"] == "greater_than_equal":
        return f"{name}={shown(value)}: {BECAUSE[name]}"
    number = problem["type"].startswith(("float", "finite"))
    table = problem["type"] == "dict_type"
    takes = allowed(field) if field is not None else "a number" if number else "a table" if table else "text"
    write = f"; write [{shown(value)}]" if problem["type"] == "tuple_type" and isinstance(value, str) else ""
    return f"{name}={shown(value)}: {_reason(problem)}; allowed: {takes}{write}"


def _unknown(path: tuple[Any, ...], value: object, model: type[BaseModel]) -> str:
    """Return the line for a key that does not exist, with the nearest one that does and all there are."""
    gone = refusal(plain_name(path), value)
    if gone:
        return gone
    *parents, key = path
    section = section_at(model, parents)
    names = list(section.model_fields) if section is not None else []
    hint = _other_place(str(key), model) or did_you_mean(str(key), names)
    if _is_elsewhere(path, model):
        hint = f", it belongs in a recipe for {ELSEWHERE[key]};"
    name, table = plain_name(path), isinstance(value, Mapping)
    what = f"{name}: no such section" if table else f"{name}={shown(value)}: no such field"
    return f"{what}{hint or ';'} allowed: {', '.join(names)}"


def _other_place(key: str, model: type[BaseModel]) -> str:
    """Return the question whether the field of this name in another section is meant, "" without one."""
    paths = " or ".join(f'"{path}"' for path in paths_of(model, key)[:2])
    return f"; did you mean {paths}?" if paths else ""


def _reason(problem: dict[str, Any]) -> str:
    kind: str = problem["type"]
    if kind == "literal_error":
        return "not one of the names"
    if kind.startswith(("greater_than", "less_than", "finite")):
        return "out of range"
    if kind in ("too_short", "missing"):
        return "nothing given"
    return "wrong type" if kind.endswith(("_type", "_from_float", "_parsing")) else str(problem["msg"])
