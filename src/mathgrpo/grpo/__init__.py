"""The paper: advantages and losses as pure functions that know no model and no recipe's run."""

from mathgrpo.grpo.advantages import group_advantages, with_advantages

__all__ = ["group_advantages", "with_advantages"]
