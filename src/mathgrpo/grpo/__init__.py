"""The paper: advantages, loss and objectives as pure functions that know no model and no recipe."""

from mathgrpo.grpo.advantages import group_advantages, with_advantages

__all__ = ["group_advantages", "with_advantages"]
