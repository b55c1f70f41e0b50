"""One import: TRL's GRPOConfig and GRPOTrainer on this package's engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mathgrpo.trainer.config import GRPOConfig
    from mathgrpo.trainer.trainer import GRPOTrainer

__all__ = ["GRPOConfig", "GRPOTrainer"]


def __getattr__(name: str) -> Any:
    """Import on first use: the trainer brings torch and transformers, the config does not."""
    if name == "GRPOConfig":
        from mathgrpo.trainer.config import GRPOConfig

        return GRPOConfig
    if name == "GRPOTrainer":
        from mathgrpo.trainer.trainer import GRPOTrainer

        return GRPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
