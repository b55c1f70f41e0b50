"""Whether prompts and completions fit the model's context."""

from __future__ import annotations

from collections.abc import Sequence

from mathgrpo.errors import UserError
from mathgrpo.models import Policy
from mathgrpo.types import Prompt, Sampling


def check_context(policy: Policy, prompts: Sequence[Prompt], sampling: Sampling) -> None:
    """Raise UserError when a prompt and its longest completion exceed the model's context.

    Beyond it positions are unknown to the model: GPT-2 crashes there, others go on and write nonsense.
    """
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    if longest + sampling.max_new_tokens > policy.max_context:
        raise UserError(
            f"rollout.max_new_tokens={sampling.max_new_tokens}: with a prompt of {longest} tokens it exceeds the "
            f"{policy.max_context} tokens of context of {policy.name}; use at most {policy.max_context - longest} "
            "or shorter prompts"
        )
