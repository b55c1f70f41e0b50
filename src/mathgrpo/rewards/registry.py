"""The built-in rewards by name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from mathgrpo.rewards import catalogue, reference, steps
from mathgrpo.rewards.reward import Reward


def _rewards_in(package: ModuleType) -> Iterator[Reward]:
    for module in iter_modules(package.__path__, f"{package.__name__}."):
        yield from (value for value in vars(import_module(module.name)).values() if isinstance(value, Reward))


CATALOGUE: dict[str, Reward] = {
    reward.name: reward for package in (catalogue, steps, reference) for reward in _rewards_in(package)
}
"""Reward name -> the reward with its facts."""
