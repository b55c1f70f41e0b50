"""The policy: a causal language model with everything a stage needs to know about it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded model and its tokenizer.

    Attributes:
        model: a transformers causal LM, or a PEFT model around one.
        tokenizer: its tokenizer.
        eos_ids: every token id that ends a completion, ascending.
        device: "cpu", "cuda" or "cuda:N".
        compute_dtype: precision of matrix products under `autocast`.
        max_context: prompt and completion tokens together, at most.
        name: what the user called it ("starter", a folder's name, a hub id).
    """

    model: Any
    tokenizer: Any
    eos_ids: tuple[int, ...]
    device: str
    compute_dtype: torch.dtype
    max_context: int
    name: str

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself; adapters injected into its layers stay in force."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which every forward pass of this policy runs."""
        kind = self.device.split(":")[0]
        return torch.autocast(kind, dtype=self.compute_dtype, enabled=self.compute_dtype != torch.float32)
