"""One update by itself, with its checks; a run's loop keeps an `Updater`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mathgrpo.config.machinery import FAST, Machinery
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.distributed import SINGLE, World
from mathgrpo.errors import UserError
from mathgrpo.grpo.importance import Importance
from mathgrpo.models import Policy
from mathgrpo.types import RolloutGroup
from mathgrpo.update.lesson import Lesson, UpdateStats
from mathgrpo.update.pack import Piece
from mathgrpo.update.reference_policy import Reference
from mathgrpo.update.updater import Updater


def policy_update(
    policy: Policy, optimizer: torch.optim.Optimizer, groups: Sequence[RolloutGroup], section: GrpoSection, *,
    temperature: float, max_new_tokens: int, max_grad_norm: float, reference: Reference | None = None,
    token_budget: int | None = None, world: World = SINGLE, parts: Sequence[Sequence[Piece]] = (),
    importance: Importance | None = None,
    machinery: Machinery = FAST,
) -> UpdateStats:  # fmt: skip
    """Take section.updates_per_rollout optimizer steps on the groups, see `Updater.update`, and return what happened.

    Raises: NonFiniteError before the weights change; UserError for groups without advantages, beta without reference,
        or a loss that does not exist.
    """
    if not groups:
        raise UserError("policy_update: there are no groups to learn from")
    if any(len(group.advantages) != len(group.completions) for group in groups):
        raise UserError("policy_update: a group has no advantages; call with_advantages first")
    if section.beta > 0.0 and reference is None:
        raise UserError(f"grpo.beta={section.beta}: the KL term needs a reference; call build_reference first")
    updater = Updater(policy, optimizer, reference=reference, world=world, machinery=machinery)
    lesson = Lesson(section, temperature, max_new_tokens, max_grad_norm, parts, importance)
    return updater.update(groups, lesson, token_budget=token_budget)
