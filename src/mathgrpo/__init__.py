"""Teach a small language model to reason about maths with GRPO.

`from mathgrpo import GRPOConfig, GRPOTrainer` is the script interface (docs/from-trl.md), `mathgrpo` the command line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mathgrpo.trl_api.grpo_config import GRPOConfig as GRPOConfig
    from mathgrpo.trl_api.script import ModelConfig as ModelConfig
    from mathgrpo.trl_api.script import ScriptArguments as ScriptArguments
    from mathgrpo.trl_api.script import TrlParser as TrlParser
    from mathgrpo.trl_api.script import get_kbit_device_map as get_kbit_device_map
    from mathgrpo.trl_api.script import get_peft_config as get_peft_config
    from mathgrpo.trl_api.script import get_quantization_config as get_quantization_config
    from mathgrpo.trl_api.trainer import GRPOTrainer as GRPOTrainer
    from mathgrpo.trl_api.trl_rewards import accuracy_reward as accuracy_reward
    from mathgrpo.trl_api.trl_rewards import get_cosine_scaled_reward as get_cosine_scaled_reward
    from mathgrpo.trl_api.trl_rewards import get_repetition_penalty_reward as get_repetition_penalty_reward
    from mathgrpo.trl_api.trl_rewards import get_soft_overlong_punishment as get_soft_overlong_punishment
    from mathgrpo.trl_api.trl_rewards import reasoning_accuracy_reward as reasoning_accuracy_reward
    from mathgrpo.trl_api.trl_rewards import think_format_reward as think_format_reward

_NAMES = {
    "grpo_config": ("GRPOConfig",),
    "trainer": ("GRPOTrainer",),
    "script": (
        "ModelConfig", "ScriptArguments", "TrlParser", "get_kbit_device_map", "get_peft_config",
        "get_quantization_config",
    ),
    "trl_rewards": (
        "accuracy_reward", "get_cosine_scaled_reward", "get_repetition_penalty_reward", "get_soft_overlong_punishment",
        "reasoning_accuracy_reward", "think_format_reward",
    ),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import the script interface on first use: the trainer brings torch, the config and `import mathgrpo` do not."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"mathgrpo.trl_api.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
