"""A reward's settings, from a recipe's [reward_settings.NAME] table into its function."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mathgrpo.config.load_recipe import validated
from mathgrpo.config.recipe import Section
from mathgrpo.errors import UserError
from mathgrpo.rewards.catalogue.length import LengthSettings
from mathgrpo.rewards.checked_calls import RewardFunction, with_keywords
from mathgrpo.rewards.registry import CATALOGUE

Settings = Section | Mapping[str, Any]
"""A built-in reward's settings, or the keyword arguments of a user's function."""


def reward_settings(
    functions: Mapping[str, RewardFunction], tables: Mapping[str, Mapping[str, Any]], max_new_tokens: int = 0
) -> dict[str, Settings]:
    """Return the settings of every reward that has any, the defaults filled in.

    Raises:
        UserError: a table for a reward that is not used or takes no settings, an unknown key, a value that is not
            allowed, or a reward on length without a length to count against.
    """
    checked: dict[str, Settings] = {}
    for name in tables:
        if name not in functions:
            raise UserError(
                f"reward_settings.{name}: this reward is not in [rewards]; add rewards.{name}=1.0 or remove the table"
            )
    for name, function in functions.items():
        table = tables.get(name, {})
        if name in CATALOGUE:
            section = CATALOGUE[name].settings
            if section is None and table:
                raise UserError(f"reward_settings.{name}: this reward takes no settings; remove the table")
            if section is not None:
                checked[name] = _require_length(name, _section(name, section, table), max_new_tokens)
        elif table:
            checked[name] = _keywords(name, function, table)
    return checked


def own_section(settings: Mapping[str, Settings], name: str) -> Section | None:
    """Return the settings of a built-in reward, None where it has none."""
    own = settings.get(name)
    return own if isinstance(own, Section) else None


def with_settings(function: RewardFunction, settings: Settings | None) -> RewardFunction:
    """Return the function with its settings in it, its name kept."""
    if settings is None:
        return function
    fixed = {"settings": settings} if isinstance(settings, Section) else settings
    return with_keywords(function, **fixed)


def _section(name: str, section: type[Section], table: Mapping[str, Any]) -> Section:
    try:
        return validated(section, dict(table))
    except UserError as error:
        lines = (f"reward_settings.{name}.{line.lstrip('=')}" for line in str(error).splitlines())
        raise UserError("\n".join(lines)) from None


def _require_length(name: str, settings: Section, max_new_tokens: int) -> Section:
    """Return the settings, if a reward on length has a length to count against."""
    if isinstance(settings, LengthSettings):
        try:
            settings.limit(max_new_tokens)
        except ValueError as error:
            raise UserError(f"reward_settings.{name}.{error}") from None
    return settings


def _keywords(name: str, function: RewardFunction, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a user's function, if it has parameters of these names."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise UserError(
            f'reward_settings."{name}": its parameters are not known; wrap it in a function of your own'
        ) from None
    own = [
        key
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and key not in ("prompts", "completions", "answer", "question")
    ]
    for key in table:
        if key not in own:
            known = ", ".join(own) or "none"
            raise UserError(f'reward_settings."{name}".{key}: the function has no such parameter; it has: {known}')
    return dict(table)
