"""The built-in rewards by name, and the suites of weights that recipes begin with."""

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


SOUND = frozenset(name for name, reward in CATALOGUE.items() if reward.sound)
"""Rewards for which `build_suite` keeps a wrong answer in perfect form below a right one."""


SOUND_WEIGHTS = {"correct": 1.0, "format": 0.1}
"""The default suite: a wrong answer earns 0, a right one 1.0, in exactly the asked layout 1.1."""


STEP_WEIGHTS = {"correct": 0.4, "verified_steps": 0.6}
"""Reference system 3's suite, bounded: 0.4 for the answer, 0.2 a step for three steps; 0.09 at most when wrong."""


REFERENCE_WEIGHTS = {name: 1.0 for name in CATALOGUE if name.startswith("reference_")}
"""The notebook's suite: up to 2.0 + 0.5 + 0.5 + 0.5 + 0.5."""


MULTI_WEIGHTS = {name: 1.0 for name in CATALOGUE if name.startswith("multi_")}
"""The multi-reward notebook's suite: up to 3.0 + 2.0 + 3.0 + 1.5."""


_GIST = ("gist_", "reference_correctness", "reference_integer")
GIST_WEIGHTS = {name: 1.0 for name in CATALOGUE if name.startswith(_GIST)}
"""The one-shot notebook's suite, as the gist that it extends has it."""
