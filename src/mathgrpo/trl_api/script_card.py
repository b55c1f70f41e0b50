"""What the model card of a script says of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mathgrpo.publishing.card import script_card
from mathgrpo.trl_api.grpo_config import GRPOConfig


def model_card(
    model: Any, name: str, dataset: str, tags: Sequence[str], rewards: Sequence[str], args: GRPOConfig
) -> str:
    """Return README.md with the metadata that the hub reads. Folders of this machine are not named in it."""
    settings = {
        "rewards": ", ".join(rewards), "loss": args.loss_type, "learning rate": f"{args.learning_rate:g}",
        "beta": f"{args.beta:g}", "completions of a prompt": args.num_generations,
        "completions of a step": args.per_device_train_batch_size * args.gradient_accumulation_steps,
        "tokens of a completion": f"at most {args.max_completion_length}", "temperature": f"{args.temperature:g}",
    }  # fmt: skip
    base = str(getattr(model.config, "_name_or_path", ""))
    return script_card(
        name, args.hub_model_id or name, settings, base=base, dataset=dataset, adapter=hasattr(model, "peft_config"),
        tags=tags,
    )  # fmt: skip
