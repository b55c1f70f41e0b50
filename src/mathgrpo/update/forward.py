"""The forward passes of an update: the model's own modules, or the fused one where it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mathgrpo.update.attention.packed import AttentionKernel, packed_attention
from mathgrpo.update.decoder_and_head import split_model
from mathgrpo.update.pack import MicroBatch


class Forward(Protocol):
    """Hidden states and logits of micro-batches, whose gradients reach the model's parameters by `finish`."""

    def refresh(self) -> None:
        """Take over the weights as they are now, without gradients; call before the first micro-batch of a step."""

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the final hidden states of the micro-batch's logit rows, [N, F]."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states."""
        ...

    def finish(self) -> None:
        """Complete the parameters' gradients after the last micro-batch."""


class ModuleForward:
    """The model's own modules, under the policy's autocast: they are the weights, and autograd writes the gradients."""

    def __init__(self, model: Any, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        """model: a causal LM, adapters included. autocast: makes the context that the modules run in."""
        self.decoder, self._head = split_model(model)
        self._autocast = autocast

    def refresh(self) -> None:
        """Do nothing."""

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the final hidden states; shared layout: call inside `packed_attention` of the decoder's config."""
        extra: dict[str, Any] = {} if batch.layout is None else {"packed_layout": batch.layout}
        with self._autocast():
            states: Tensor = self.decoder(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids,
                use_cache=False, **extra,
            ).last_hidden_state  # fmt: skip
            return states.flatten(0, 1).index_select(0, batch.logit_rows)

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits, with what the architecture does to them."""
        with self._autocast():
            return self._head(hidden)

    def finish(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Passes:
    """How the updates of a run compute, as `choose_passes` makes it.

    Attributes:
        forward, reference: how policy and reference compute; the latter is called inside `as_reference`.
        shared_prompt: a prompt is one piece of a row for all its completions.
        attention: kernel of the modules' packed attention; None with the fused forward pass.
        attention_is_chosen: whether it is the kernel of the run; else the first micro-batch decides.
        packed: configurations of the models whose modules use packed attention.
        context: positions that the model has.
        plainer: makes the passes to fall back on; None for the plain ones, the model's modules with a row a completion.
        notes: what a user should know, such as why prompts are not shared.
    """

    model: Any
    device: str
    vocab_size: int
    forward: Forward
    reference: Forward | None = None
    as_reference: Callable[[], AbstractContextManager[Any]] = nullcontext
    shared_prompt: bool = True
    attention: AttentionKernel | None = "sdpa"
    attention_is_chosen: bool = True
    packed: tuple[Any, ...] = ()
    context: int = 1 << 30
    plainer: Callable[[], Passes] | None = None
    notes: tuple[str, ...] = ()

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Let the modules attend as these passes do inside the block, to which a backward pass belongs too."""
        with ExitStack() as attentions:
            for config in self.packed:
                attentions.enter_context(packed_attention(config))
            yield
