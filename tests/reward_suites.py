"""The suites of weights that the tests of rewards go through."""

from __future__ import annotations

from mathgrpo.rewards import CATALOGUE

SOUND = frozenset(name for name, reward in CATALOGUE.items() if reward.sound)
SOUND_WEIGHTS = {"correct": 1.0, "format": 0.1}
STEP_WEIGHTS = {"correct": 0.4, "verified_steps": 0.6}
REFERENCE_WEIGHTS = {name: 1.0 for name in CATALOGUE if name.startswith("reference_")}
MULTI_WEIGHTS = {name: 1.0 for name in CATALOGUE if name.startswith("multi_")}
_GIST = ("gist_", "reference_correctness", "reference_integer")
GIST_WEIGHTS = {name: 1.0 for name in CATALOGUE if name.startswith(_GIST)}
