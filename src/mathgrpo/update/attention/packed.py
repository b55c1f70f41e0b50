"""Packed shared-prompt attention, served to unmodified transformers models through their attention interface.

A packed row holds [prompt][c1]...[cG] group after group. A prompt row attends to the prompt rows up to itself; a
completion row to its whole prompt and to its own completion up to itself. Only the attention looks at the layout:
everything else in a transformer works token by token, and positions come from position_ids.

Three kernels compute the same, each from a layout of its own:

    sdpa    padded batches through scaled_dot_product_attention; every device (padded.py)
    varlen  one call of the flash attention bundled with torch; CUDA, 16 bits (varlen.py)
    flex    FlexAttention with a block mask, compiled; CUDA (flex.py)

`kernel_choice.py` chooses among them. A CPU has one kernel, and the fast family another forward pass (update/fused).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mathgrpo.update.attention.flex import flex_mask
from mathgrpo.update.attention.padded import padded_rows
from mathgrpo.update.attention.varlen import varlen_segments

# Shape legend: T packed rows, H query heads, K key-value heads, D head size.

ATTENTION_NAME = "mathgrpo_shared_prompt"
"""Name under which the packed attention is registered with transformers."""

UNSERVED = ("softcap", "s_aux", "position_bias", "cache")
"""Arguments some architectures pass to their attention that the packed attention does not honour."""

AttentionKernel = Literal["sdpa", "varlen", "flex"]


class AttentionForm(Protocol):
    """The layout as one kernel needs it."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Return packed attention outputs: query [T, H, D], key and value [T, K, D] -> [T, H, D]."""
        ...


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Which packed rows belong together.

    Attributes:
        form: the same as tensors on the device, for the kernel in use.
        longest: longest context, prompt and completion together.
    """

    form: AttentionForm
    longest: int


def packed_layout(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int, int]], num_rows: int,
    bucket: Callable[[int], int], device: torch.device | str, kernel: AttentionKernel = "sdpa",
) -> PackedLayout:  # fmt: skip
    """Return the layout of a packed row of `num_rows` tokens, its padding included.

    prompts: (first row, length) of each. completions: (first row, length, prompt) of each; a length may be 0.
    Nothing that counts attends to padding, and its outputs are never read, so it gets no gradient.
    """
    form: AttentionForm
    if kernel == "varlen":
        form = varlen_segments(prompts, completions, num_rows, device)
    elif kernel == "flex":
        form = flex_mask(prompts, completions, num_rows, device)
    else:
        form = padded_rows(prompts, completions, num_rows, bucket, device)
    return PackedLayout(form, max(prompts[prompt][1] + length for _, length, prompt in completions))


def shared_prompt_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return the attention output of a packed row, in transformers' attention signature.

    Shapes: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D].
    Raises: NotImplementedError for what the packed attention does not honour (soft caps, sinks, short windows).
    """
    layout: PackedLayout | None = kwargs.get("packed_layout")
    if layout is None:
        raise NotImplementedError("the model does not pass keyword arguments on to its attention")
    unserved = [name for name in UNSERVED if kwargs.get(name) is not None]
    window = kwargs.get("sliding_window")
    if unserved or attention_mask is not None or dropout or query.shape[0] != 1:
        raise NotImplementedError(f"packed attention does not serve {unserved or 'a mask, dropout or a batch'}")
    if window is not None and window < layout.longest:
        raise NotImplementedError(f"sliding window of {window} tokens, context of {layout.longest}")
    query_THD, key_TKD, value_TKD = (states[0].transpose(0, 1) for states in (query, key, value))
    return layout.form.attend(query_THD, key_TKD, value_TKD, scaling).unsqueeze(0), None


@contextlib.contextmanager
def packed_attention(config: Any) -> Iterator[None]:
    """Let every model with this configuration use the packed attention inside the block; restored after it.

    The backward pass belongs inside too: gradient checkpointing runs the forward again there.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, shared_prompt_attention)
    before = config._attn_implementation
    config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        config._attn_implementation = before
