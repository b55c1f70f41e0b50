"""Packed shared-prompt attention, served to unmodified transformers models through their attention interface.

A packed row holds [prompt][c1]...[cG] group after group. A prompt row attends to the prompt rows up to itself; a
completion row to its whole prompt and to its own completion up to itself; in a layer with a sliding window only to the
last of these. Only the attention looks at the layout: everything else in a transformer works token by token, and
positions come from position_ids.

Two kernels compute the same, each from a layout of its own:

    sdpa    padded batches through scaled_dot_product_attention; every device
    varlen  one call of the flash attention bundled with torch; CUDA, 16 bits (varlen.py)

`kernel_choice.py` chooses between them. A CPU has one kernel, and the fast family another forward pass (update/fused).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mathgrpo.update.attention.varlen import VarlenSegments, varlen_segments

ATTENTION_NAME = "mathgrpo_shared_prompt"
"""Name under which the packed attention is registered with transformers."""

UNSERVED = ("softcap", "s_aux", "position_bias", "cache")
"""Arguments some architectures pass to their attention that the packed attention does not honour."""

AttentionKernel = Literal["sdpa", "varlen"]


def packed_layout(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int, int]], num_rows: int,
    bucket: Callable[[int], int], kernel: AttentionKernel = "sdpa",
) -> PackedLayout:  # fmt: skip
    """Return which rows of `num_rows` tokens, padding included, belong together: tensors for the kernel in use.

    prompts: (first row, length) of each. completions: (first row, length, prompt) of each; a length may be 0.
    Nothing that counts attends to padding, and its outputs are never read, so it gets no gradient.
    """
    longest = max(prompts[prompt][1] + length for _, length, prompt in completions)
    if kernel == "varlen":
        return varlen_segments(prompts, completions, num_rows, longest)
    return padded_rows(prompts, completions, num_rows, bucket, longest)


def shared_prompt_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return the attention output of a packed row, in transformers' attention signature.

    Shapes: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D].
    Raises: NotImplementedError for what the packed attention does not honour (soft caps, sinks).
    """
    layout: PackedLayout | None = kwargs.get("packed_layout")
    if layout is None:
        raise NotImplementedError("the model does not pass keyword arguments on to its attention")
    unserved = [name for name in UNSERVED if kwargs.get(name) is not None]
    window = kwargs.get("sliding_window")
    if unserved or attention_mask is not None or dropout or query.shape[0] != 1:
        raise NotImplementedError(f"packed attention does not serve {unserved or 'a mask, dropout or a batch'}")
    window = None if window is None or window >= layout.longest else int(window)
    query_THD, key_TKD, value_TKD = (states[0].transpose(0, 1) for states in (query, key, value))
    return layout.attend(query_THD, key_TKD, value_TKD, scaling, window).unsqueeze(0), None


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


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Packed rows as padded batches.

    Attributes:
        prompt_rows: [N, P] packed row of each prompt token; padding points at row 0.
        completion_rows: [R, C] packed row of each completion input token; padding points at row 0.
        prompt_of_completion: [R] which prompt each completion continues.
        prompt_lengths: [R] tokens of that prompt, after which a completion's positions go on.
        slots: [T] place of each packed row in the prompts and completions, flattened one after the other.
        completion_bias: [R, 1, C, P + C] 0 where a completion row attends, -inf where it does not.
        longest: longest context, prompt and completion together.
        windowed: the masks of each window that a layer has asked for, see `_windowed`.
    """

    prompt_rows: Tensor
    completion_rows: Tensor
    prompt_of_completion: Tensor
    prompt_lengths: Tensor
    slots: Tensor
    completion_bias: Tensor
    longest: int
    windowed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None = None
    ) -> Tensor:
        """Return packed attention outputs: query [T, H, D], key and value [T, K, D] -> [T, H, D].

        window: how many tokens of its sequence each sees, itself included; None: all.
        """
        prompts = [_gather(states, self.prompt_rows) for states in (query, key, value)]
        own = [_gather(states, self.completion_rows) for states in (query, key, value)]
        keys, values = (
            torch.cat([prompts[i].index_select(0, self.prompt_of_completion), own[i]], dim=1) for i in (1, 2)
        )
        prompt_bias, bias = (None, self.completion_bias) if window is None else self._windowed(window)
        prompt_mask = None if prompt_bias is None else prompt_bias.to(query.dtype)
        prompt_output = _sdpa(*prompts, scaling=scaling, attn_mask=prompt_mask, is_causal=prompt_mask is None)
        completion_output = _sdpa(own[0], keys, values, scaling=scaling, attn_mask=bias.to(query.dtype))
        flat = torch.cat([prompt_output.flatten(0, 1), completion_output.flatten(0, 1)])
        return flat.index_select(0, self.slots)

    def _windowed(self, window: int) -> tuple[Tensor, Tensor]:
        """Return the biases of prompts [P, P] and completions [R, 1, C, P + C] in a layer with a window; kept.

        A token sees the last `window` positions of its own sequence. Every row sees itself, padding too.
        """
        if window not in self.windowed:
            width_P, width_C = self.prompt_rows.shape[1], self.completion_rows.shape[1]
            steps = torch.arange(max(width_P, width_C), device=self.slots.device)
            age = steps[:, None] - steps[None, :]
            hidden = (age < 0) | (age >= window)
            none = torch.zeros((), device=self.slots.device)
            prompt_bias = none.expand(width_P, width_P).masked_fill(hidden[:width_P, :width_P], float("-inf"))
            # Position of a completion's row i is prompt length + i; that of a prompt's row is its number.
            age_of_prompt = self.prompt_lengths[:, None, None] + steps[:width_C, None] - steps[:width_P]
            out_of_sight = torch.cat(
                [age_of_prompt >= window, hidden[:width_C, :width_C].expand(len(age_of_prompt), -1, -1)], dim=2
            )
            bias = self.completion_bias.masked_fill(out_of_sight[:, None], float("-inf"))
            self.windowed[window] = prompt_bias, bias
        return self.windowed[window]


PackedLayout = PaddedRows | VarlenSegments


def padded_rows(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int, int]], num_rows: int,
    bucket: Callable[[int], int], longest: int,
) -> PaddedRows:  # fmt: skip
    """Return the padded batches of a packed row (see `packed_layout`). Padding is read from row 0 and masked."""
    width_P = bucket(max(length for _, length in prompts))
    width_C = bucket(max(1, *(length for _, length, _ in completions)))
    prompt_rows, prompt_real = _rows(prompts, width_P)
    completion_rows, completion_real = _rows([(start, length) for start, length, _ in completions], width_C)
    owner = torch.tensor([prompt for _, _, prompt in completions])
    rows = torch.cat([prompt_rows.flatten(), completion_rows.flatten()])
    real = torch.cat([prompt_real.flatten(), completion_real.flatten()])
    slots = torch.zeros(num_rows, dtype=torch.long)
    slots[rows[real]] = torch.arange(len(rows))[real]
    causal = torch.ones(width_C, width_C, dtype=torch.bool).tril()
    sees_prompt = prompt_real[owner][:, None, :].expand(-1, width_C, -1)
    visible = torch.cat([sees_prompt, causal.expand(len(completions), -1, -1)], dim=2)
    bias = torch.zeros(visible.shape).masked_fill(~visible, float("-inf")).unsqueeze(1)
    return PaddedRows(
        prompt_rows=prompt_rows,
        completion_rows=completion_rows,
        prompt_of_completion=owner,
        prompt_lengths=torch.tensor([prompts[prompt][1] for _, _, prompt in completions]),
        slots=slots,
        completion_bias=bias,
        longest=longest,
    )


def _sdpa(query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, **kwargs: Any) -> Tensor:
    """Return batched attention on [rows, length, heads, D] tensors."""
    groups = query.shape[2] // key.shape[2]
    # CUDA's fast kernels take a mask or grouped heads, not both; CPU's takes both and saves the copies.
    if groups > 1 and query.device.type != "cpu":
        key, value = (states.repeat_interleave(groups, dim=2) for states in (key, value))
    output = scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),
        scale=scaling, enable_gqa=key.shape[2] != query.shape[2], **kwargs,
    )  # fmt: skip
    return output.transpose(1, 2)


def _gather(states: Tensor, rows: Tensor) -> Tensor:
    return states.index_select(0, rows.flatten()).view(*rows.shape, *states.shape[1:])


def _rows(spans: Sequence[tuple[int, int]], width: int) -> tuple[Tensor, Tensor]:
    """Return the packed rows of each span [spans, width], and which of them are real."""
    starts = torch.tensor([start for start, _ in spans])[:, None]
    lengths = torch.tensor([length for _, length in spans])[:, None]
    steps = torch.arange(width)[None, :]
    real = steps < lengths
    return torch.where(real, starts + steps, 0), real
