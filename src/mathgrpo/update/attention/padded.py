"""Packed attention as two padded batches through scaled_dot_product_attention: the form that every device serves.

Prompts are a causal batch, completions a batch whose keys are [prompt, own]. A two-part form that reads the prompt
once and merges by log-sum-exp measured no faster on CPU (92 against 95 ms, 16 groups of 8, prompt 90, completions to
60) and needs private operators; a dense mask over each group took 155 ms, the plain padded batch 348 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mathgrpo.hardware.cudnn import without_cudnn_attention
from mathgrpo.hardware.upload import upload

# Shape legend: T packed rows, N prompts of P rows, R completions of C rows, H query heads, K key-value heads,
# D head size.


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Packed rows as padded batches.

    Attributes:
        prompt_rows: [N, P] packed row of each prompt token; padding points at row 0.
        completion_rows: [R, C] packed row of each completion input token; padding points at row 0.
        prompt_of_completion: [R] which prompt each completion continues.
        slots: [T] place of each packed row in the prompts and completions, flattened one after the other.
        completion_bias: [R, 1, C, P + C] 0 where a completion row attends, -inf where it does not.
    """

    prompt_rows: Tensor
    completion_rows: Tensor
    prompt_of_completion: Tensor
    slots: Tensor
    completion_bias: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Return packed attention outputs: query [T, H, D], key and value [T, K, D] -> [T, H, D]."""
        prompts = [_gather(states, self.prompt_rows) for states in (query, key, value)]
        own = [_gather(states, self.completion_rows) for states in (query, key, value)]
        keys, values = (
            torch.cat([prompts[i].index_select(0, self.prompt_of_completion), own[i]], dim=1) for i in (1, 2)
        )
        bias = self.completion_bias.to(query.dtype)
        prompt_output = _sdpa(*prompts, scaling=scaling, is_causal=True)
        completion_output = _sdpa(own[0], keys, values, scaling=scaling, attn_mask=bias)
        flat = torch.cat([prompt_output.flatten(0, 1), completion_output.flatten(0, 1)])
        return flat.index_select(0, self.slots)


def padded_rows(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int, int]], num_rows: int,
    bucket: Callable[[int], int], device: torch.device | str,
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
        prompt_rows=upload(prompt_rows, device),
        completion_rows=upload(completion_rows, device),
        prompt_of_completion=upload(owner, device),
        slots=upload(slots, device),
        completion_bias=upload(bias, device),
    )


def _sdpa(query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, **kwargs: Any) -> Tensor:
    """Return batched attention on [rows, length, heads, D] tensors."""
    groups = query.shape[2] // key.shape[2]
    # CUDA's fast kernels take a mask or grouped heads, not both; CPU's takes both and saves the copies.
    if groups > 1 and query.device.type != "cpu":
        key, value = (states.repeat_interleave(groups, dim=2) for states in (key, value))
    with without_cudnn_attention(query.device):
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
