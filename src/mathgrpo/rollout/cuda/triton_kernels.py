"""The decode step's operations as Triton kernels. Importing this file imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda import triton_attention, triton_layers, triton_sampling
from mathgrpo.rollout.cuda.kernels import Reach, TorchKernels
from mathgrpo.rollout.cuda.places import Places
from mathgrpo.types import Sampling


class TritonKernels:
    """`Kernels` in Triton; top-k, top-p and min-p go through torch, whose sorting they need."""

    name = "Triton kernels"
    fixed_reach = False

    def __init__(self) -> None:
        self._torch = TorchKernels()

    def tile_rows(self, share: int) -> int:
        """Return how many rows of one prompt a tile of the attention kernel holds."""
        return triton_attention.tile_rows(share)

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return the RMS norm of x times weight, in dtype."""
        return triton_layers.norm(x, None, weight, eps, dtype)

    def add_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return x + delta, written into x, and its norm."""
        return x, triton_layers.norm(x, delta, weight, eps, dtype)

    def rotate(
        self, qkv: Tensor, head_norm: Tensor | None, model: QwenView, keys: Tensor, values: Tensor, places: Places
    ) -> Tensor:
        """Return rotated queries; write keys and values into the pool."""
        return triton_layers.rotate(qkv, head_norm, model, keys, values, places)

    def plan(self, model: QwenView, places: Places, reach: Reach) -> triton_attention.Workspace:
        """Return the attention's workspace; lengths are read on the device, so the reach is not needed."""
        device = model.embedding.device
        return triton_attention.workspace(
            len(places.tokens), model.num_heads, model.num_kv_heads, model.head_dim, device
        )

    def attend(
        self, q: Tensor, keys: Tensor, values: Tensor, places: Places, plan: triton_attention.Workspace
    ) -> Tensor:
        """Return the attention output; each prompt is read once for all its rows."""
        return triton_attention.attend(q, keys, values, places, plan)

    def gate(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up."""
        return triton_layers.gate(gate_up)

    def sample(self, logits: Tensor, rows: Tensor, places: Places, who: Tensor, sampling: Sampling) -> None:
        """Draw, note and advance in one pass over the logits."""
        truncated = sampling.top_p < 1.0 or sampling.min_p > 0.0 or 0 < sampling.top_k < logits.shape[1]
        if sampling.temperature > 0.0 and truncated:
            self._torch.sample(logits, rows, places, who, sampling)
        else:
            triton_sampling.draw(logits, rows, places, who, sampling)
