"""The policy: a causal language model with everything a stage needs to know about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mathgrpo.errors import UserError, named
from mathgrpo.models.settled_rope import settle_rope
from mathgrpo.types import Prompt, Sampling

UNBOUNDED_CONTEXT = 1 << 30
"""Context of a model without a largest position, such as a recurrent one."""


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
        steady_context: tokens of a text up to which the rotary embedding is the same, see `settle_rope`.
    """

    model: Any
    tokenizer: Any
    eos_ids: tuple[int, ...]
    device: str
    compute_dtype: torch.dtype
    max_context: int
    name: str
    steady_context: int = UNBOUNDED_CONTEXT

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself; adapters injected into its layers stay in force."""
        return base_model(self.model)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which every forward pass of this policy runs."""
        kind = self.device.split(":")[0]
        return torch.autocast(kind, dtype=self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids. Special tokens stay: a format may use them."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def save(self, folder: Path) -> None:
        """Write the model (with an adapter: that alone) and its tokenizer, so that from_pretrained reads them."""
        # The embeddings under an adapter do not train, and looking at the base model's would need the hub.
        options: dict[str, Any] = {"save_embedding_layers": False} if hasattr(self.model, "peft_config") else {}
        self.model.save_pretrained(folder, **options)
        self.tokenizer.save_pretrained(folder)


def base_model(model: Any) -> Any:
    """Return the transformers model inside a PEFT model, or the model itself; adapters in its layers stay in force."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def resting(model: Any) -> Iterator[None]:
    """Put every module in eval mode, and back exactly as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        model.eval()
        for module in training:
            module.training = True


def module_outfit(model: Any) -> list[tuple[object, ...]]:
    """Return what decides which forward pass serves a model: each module's class, hooks, and replaced forward."""
    return [
        (type(module), type(module).forward, len(module._forward_hooks), len(module._forward_pre_hooks),
         len(module._backward_hooks), len(module._backward_pre_hooks), "forward" in vars(module))
        for module in model.modules()
    ]  # fmt: skip


def is_linear4bit(module: Any) -> bool:
    """Return whether a module is bitsandbytes' own 4-bit layer (PEFT's layer around one has the same name)."""
    return type(module).__name__ == "Linear4bit" and _is_bnb(module)


def _is_bnb(module: Any) -> bool:
    return any(kind.__module__.startswith("bitsandbytes") for kind in type(module).__mro__)


def check_context(policy: Policy, prompts: Sequence[Prompt], sampling: Sampling) -> None:
    """Raise UserError when a prompt and its longest completion exceed the model's context; see to it that it fits them.

    Beyond it positions are unknown to the model: GPT-2 crashes there, others go on and write nonsense. Within it the
    angles of some rotary embeddings depend on the length.
    """
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    if longest + sampling.max_new_tokens > policy.max_context:
        raise UserError(
            f"{named('rollout.max_new_tokens', str(sampling.max_new_tokens))}: with a prompt of {longest} tokens it "
            f"exceeds the {policy.max_context} tokens of context of {policy.name}; {room_remedy(policy, longest)}"
        )
    if longest + sampling.max_new_tokens > policy.steady_context:
        settle_rope(policy.causal_lm, longest + sampling.max_new_tokens)


def room_remedy(policy: Policy, longest: int) -> str:
    """Return what to do where the longest prompt and its completion are longer than the context."""
    room = policy.max_context - longest
    return f"use at most {room} or shorter prompts" if room > 0 else "shorten the prompt or take the problem out"
