"""The operations of a decode step between its matrix products, and their plain form in torch.

`TorchKernels` is the definition: the Triton kernels are tested against it, and it serves where Triton does not.

Shapes: R places, d hidden size, H query heads, KV key-value heads, E = H / KV, D head_dim, F MLP width, V vocabulary,
N tokens in the pool, S columns attended to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda.places import DUMMY, Places
from mathgrpo.rollout.sampling import sample_tokens, uniforms
from mathgrpo.rollout.torch_ops.torch_decoder import rotated
from mathgrpo.types import Sampling


@dataclass(frozen=True, slots=True)
class Reach:
    """Columns that attention in torch looks at: of prompts, and of completions. Kernels with loops ignore it."""

    prompt: int
    own: int


@dataclass(frozen=True, slots=True)
class _Columns:
    """Pool tokens each row attends to, int64[R, S], and what is added to their scores, float32[R, 1, 1, S]."""

    index: Tensor
    mask: Tensor


class TorchKernels:
    """What a decode step needs beside matrix products, in plain torch.

    A graph can hold it: nothing waits for the device and nothing comes from the host. That is why there is
    masked_fill here and no torch.where with a number, which torch would copy to the device.

    Attributes:
        name: for the run's log.
        fixed_reach: whether a captured step is tied to a `Reach`.
    """

    name = "torch operations"
    fixed_reach = True

    def tile_rows(self, share: int) -> int:
        """Return how many rows of one prompt a tile holds, with `share` query heads to a key-value head.

        1: tiles are not used.
        """
        return 1

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return the RMS norm of x [R, d] times weight, in dtype."""
        return F.rms_norm(x, x.shape[-1:], weight, eps).to(dtype)

    def add_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return x + delta in x's precision, for which x may be overwritten, and its norm."""
        x = x.add_(delta)
        return x, self.norm(x, weight, eps, dtype)

    def rotate(
        self, qkv: Tensor, head_norm: Tensor | None, model: QwenView, keys: Tensor, values: Tensor, places: Places
    ) -> Tensor:
        """Return normalised, rotated queries [R, H, D]; write keys and values where each row's last token belongs.

        Shapes: qkv [R, (H + 2 KV) D], keys and values [KV, N, D].
        """
        positions = places.prompt_lengths + places.ages - 1
        cos, sin = model.cos.index_select(0, positions), model.sin.index_select(0, positions)
        q, k, v = rotated(qkv, head_norm, model, cos, sin)
        at = (places.slots + places.ages - 1).masked_fill_(places.done == 1, DUMMY)
        keys[:, at] = k.transpose(0, 1)
        values[:, at] = v.transpose(0, 1)
        return q

    def plan(self, model: QwenView, places: Places, reach: Reach) -> Any:
        """Return what all layers' attention shares in one step.

        Here each row's columns: its prompt's, then its own; masked ones repeat the row's first own column.
        """
        index, visible = [], []
        for starts, lengths, width in (
            (places.prompt_starts, places.prompt_lengths, reach.prompt),
            (places.slots, places.ages, reach.own),
        ):
            column = torch.arange(width, device=starts.device)
            index.append(starts[:, None] + column)
            visible.append(column < lengths[:, None])
        seen = torch.cat(visible, dim=1)
        columns = torch.where(seen, torch.cat(index, dim=1), places.slots[:, None])
        mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
        return _Columns(columns, mask[:, None, None])

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, places: Places, plan: Any) -> Tensor:
        """Return the attention of q [R, H, D] over each row's prompt and completion, [R, H D].

        Scores, softmax and sums are in float32, weights in q's precision.
        """
        rows, heads, dim = q.shape
        kv = keys.shape[0]
        grouped = q.view(rows, kv, heads // kv, dim).float()
        k, v = (side[:, plan.index].transpose(0, 1).float() for side in (keys, values))
        scores = torch.matmul(grouped, k.transpose(2, 3)).mul_(dim**-0.5).add_(plan.mask)
        weights = scores.softmax(-1).to(q.dtype).float()
        return torch.matmul(weights, v).to(q.dtype).view(rows, heads * dim)

    def gate(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up of [R, 2 F], [R, F]."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def sample(self, logits: Tensor, rows: Tensor, places: Places, who: Tensor, sampling: Sampling) -> None:
        """Draw a token for the places `who` from logits[rows], note it, and advance those that had not ended.

        Shapes: logits [n, V], rows and who int64[r]. places.numbers stands for all rows, in order.
        """
        age, done = places.ages[who], places.done[who]
        chosen = logits if rows is places.numbers else logits[rows]
        drawn, logprobs = sample_tokens(chosen, uniforms(places.keys[who], age), sampling)
        at = (1 + places.out_starts[who] + age).masked_fill_(done == 1, 0)
        places.ids[at] = drawn
        places.logprobs[at] = logprobs
        ended = (drawn[:, None] == places.eos).any(1) | (age + 1 >= places.limit)
        places.tokens[who] = torch.where(done == 1, places.tokens[who], drawn)
        places.ages[who] = age + 1 - done
        places.done[who] = done | ended
