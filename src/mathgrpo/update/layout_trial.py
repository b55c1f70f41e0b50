"""Whether a model's prompts can be shared in the update: its logits in both layouts, compared once."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from mathgrpo.errors import UserError, first_line
from mathgrpo.hardware.cuda_care import uploaded
from mathgrpo.models.policy import resting
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from mathgrpo.update.attention.packed import packed_attention
from mathgrpo.update.forward import ModuleForward, split_model
from mathgrpo.update.pack import MicroBatch, Piece, build_micro_batch

TOLERANCE = 1e-3
"""Relative difference below which two fp32 computations of logits count as the same; 16-bit ones get 100 times it."""

_reasons: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def unshared_reason(model: Any) -> str:
    """Return why the model's prompts cannot be shared in the update, or "" if they can; remembered by model.

    Two small groups go through the packed layout, the plain layout and the model's own forward. Whatever an
    architecture does beside ordinary attention (biases by position, sinks, recurrence) shows as different logits.

    Raises: UserError when not even the plain layout reproduces the model's own logits.
    """
    decoder, _ = split_model(model)
    if decoder not in _reasons:
        with resting(model):
            _reasons[decoder] = _try_layouts(model, decoder)
    return _reasons[decoder]


@torch.no_grad()
def _try_layouts(model: Any, decoder: Any) -> str:
    plain_batch = _probe_batch(model, shared_prompt=False)
    plain = _logits(model, plain_batch)
    own = model(input_ids=plain_batch.input_ids, attention_mask=plain_batch.attention_mask, use_cache=False).logits
    own = own.flatten(0, 1).index_select(0, plain_batch.logit_rows)
    if not _same(plain, own):
        raise UserError(
            f"model.path: {type(model).__name__} changes its logits after the LM head in a way the update does not "
            "know; use a model whose logits are head(hidden states), as Qwen, Llama, Mistral, Gemma and GPT-2 models"
        )
    if not getattr(decoder, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    try:
        with packed_attention(decoder.config):
            packed = _logits(model, _probe_batch(model, shared_prompt=True))
    # Whatever an unknown architecture's code raises when its attention is replaced means the same: not served.
    except (NotImplementedError, TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return "" if _same(packed, plain) else "packed and plain logits differ"


def _logits(model: Any, batch: MicroBatch) -> Tensor:
    forward = ModuleForward(model, nullcontext)
    return forward.head(forward.hidden(batch))


def _same(first: Tensor, second: Tensor) -> bool:
    tolerance = TOLERANCE if first.dtype == torch.float32 else 100 * TOLERANCE
    spread = (second - second.mean(dim=-1, keepdim=True)).float().norm()
    return bool((first.float() - second.float()).norm() <= tolerance * spread)


def _probe_batch(model: Any, *, shared_prompt: bool) -> MicroBatch:
    """Return two groups of two completions, of made-up tokens and unequal lengths."""
    embedding = model.get_input_embeddings().weight

    def made_up(start: int, count: int) -> tuple[int, ...]:
        return tuple((start + 7 * i) % len(embedding) for i in range(count))

    groups = [
        RolloutGroup(
            Problem(question="probe", answer="0"), Prompt(made_up(start, length), 0),
            tuple(Completion(made_up(start + n, n), (0.0,) * n, "eos") for n in lengths), ("", ""),
        )
        for start, length, lengths in ((3, 5, (4, 2)), (40, 3, (1, 6)))
    ]  # fmt: skip
    pieces, offsets = [Piece(0, (0, 1)), Piece(1, (0, 1))], ((0, 4), (6, 7))
    batch: MicroBatch = uploaded(
        build_micro_batch(groups, offsets, pieces, shared_prompt=shared_prompt), embedding.device
    )
    return batch
