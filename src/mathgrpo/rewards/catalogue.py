"""Every reward that a recipe can name. To add one: write a function in TRL's signature and give it a name here."""

from __future__ import annotations

from mathgrpo.rewards import reference, sound
from mathgrpo.rewards.signature import RewardFunction

REWARDS: dict[str, RewardFunction] = {
    "correct": sound.correct,
    "format": sound.format_when_right,
    "format_always": sound.format_always,
    "integer": sound.integer,
    "reference_correctness": reference.reference_correctness,
    "reference_integer": reference.reference_integer,
    "reference_strict_format": reference.reference_strict_format,
    "reference_soft_format": reference.reference_soft_format,
    "reference_xml_count": reference.reference_xml_count,
}
"""Reward name -> function."""

SOUND = frozenset({"correct", "format", "format_always", "integer"})
"""Rewards for which `build_suite` keeps a wrong answer in perfect form below a right one."""

SOUND_WEIGHTS = {"correct": 1.0, "format": 0.1}
"""The default suite: a wrong answer earns 0, a right one 1.0, in exactly the asked layout 1.1."""

REFERENCE_WEIGHTS = {name: 1.0 for name in REWARDS if name.startswith("reference_")}
"""The notebook's suite: up to 2.0 + 0.5 + 0.5 + 0.5 + 0.5."""
