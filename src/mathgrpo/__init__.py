"""Teach a small language model to reason about maths with GRPO.

`from mathgrpo import GRPOConfig, GRPOTrainer` is the script interface (docs/from-trl.md), `mathgrpo` the command line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mathgrpo.trl_api.grpo_config import GRPOConfig
    from mathgrpo.trl_api.script import (
        ModelConfig,
        ScriptArguments,
        TrlParser,
        get_kbit_device_map,
        get_peft_config,
        get_quantization_config,
    )
    from mathgrpo.trl_api.trainer import GRPOTrainer
    from mathgrpo.trl_api.trl_rewards import (
        accuracy_reward,
        get_cosine_scaled_reward,
        get_repetition_penalty_reward,
        get_soft_overlong_punishment,
        reasoning_accuracy_reward,
        think_format_reward,
    )

__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "ModelConfig",
    "ScriptArguments",
    "TrlParser",
    "accuracy_reward",
    "get_cosine_scaled_reward",
    "get_kbit_device_map",
    "get_peft_config",
    "get_quantization_config",
    "get_repetition_penalty_reward",
    "get_soft_overlong_punishment",
    "reasoning_accuracy_reward",
    "think_format_reward",
]
_MODULES = {"GRPOConfig": "grpo_config", "GRPOTrainer": "trainer"} | dict.fromkeys(
    (
        "ModelConfig",
        "ScriptArguments",
        "TrlParser",
        "get_kbit_device_map",
        "get_peft_config",
        "get_quantization_config",
    ),
    "script",
)


def __getattr__(name: str) -> Any:
    """Import the script interface on first use: the trainer brings torch, the config and `import mathgrpo` do not."""
    if name in __all__:
        return getattr(importlib.import_module(f"mathgrpo.trl_api.{_MODULES.get(name, 'trl_rewards')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
