"""Whether a model's prompts can be shared in the update: its logits in both layouts, compared once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mathgrpo.errors import UserError, first_line
from mathgrpo.hardware.cuda_care import is_out_of_memory, pass_on, uploaded
from mathgrpo.models.long_texts import telling_length
from mathgrpo.models.moved_weights import moved
from mathgrpo.models.policy import resting
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from mathgrpo.update.attention.packed import packed_attention
from mathgrpo.update.decoder_and_head import split_model
from mathgrpo.update.forward import ModuleForward
from mathgrpo.update.pack import MicroBatch, Piece, build_micro_batch

TOLERANCE = 1e-3
"""Relative difference below which two fp32 computations of logits count as the same; 16-bit ones get 100 times it."""
_OWN = 1e-4
"""The same for one module's logits in two ways, in fp32: a soft cap hardly shows on the small logits of a new model."""


class _Tried(NamedTuple):
    """What trials found, and how long their longest text was."""

    length: int
    reason: str


_tried: weakref.WeakKeyDictionary[Any, _Tried] = weakref.WeakKeyDictionary()


def unshared_reason(model: Any, longest: int = 0) -> str:
    """Return why the model's prompts cannot be shared in the update, or "" if they can; remembered by model.

    Two small groups go through the packed layout, the plain layout and the model's own forward. Whatever an
    architecture does beside ordinary attention (biases by position, sinks, recurrence) shows as different logits. What
    it does in longer texts alone (chunks, windows of its own) shows in two texts of the length that tells.

    longest: tokens of the longest text to come, prompt and completion.
    Raises: UserError when not even the plain layout reproduces the model's own logits.
    """
    decoder, _ = split_model(model)
    length, known = telling_length(model, longest), _tried.get(decoder)
    if known is None or (not known.reason and known.length < length):
        with resting(model), moved(model):  # what a fresh adapter does to the attention shows only then
            reason = _try_layouts(model, decoder) if known is None else ""
            _tried[decoder] = known = _Tried(length, reason or (_try_length(model, length) if length else ""))
    return known.reason


@torch.no_grad()
def _try_layouts(model: Any, decoder: Any) -> str:
    plain = _plain_logits(model)
    if not getattr(decoder, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    try:
        packed = _logits(model, _probe_batch(model, _SHORT, shared_prompt=True))
    # Whatever an unknown architecture's code raises when its attention is replaced means the same: not served.
    except (NotImplementedError, TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return "" if _same(packed, plain) else "packed and plain logits differ"


def _plain_logits(model: Any) -> Tensor:
    """Return the logits of the short groups in the plain layout.

    Raises: UserError when they are not the model's own.
    """
    batch = _probe_batch(model, _SHORT, shared_prompt=False)
    own = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    own = own.flatten(0, 1).index_select(0, batch.logit_rows)
    try:
        plain = _logits(model, batch)
        served, how = plain.shape == own.shape and _same(plain, own, _OWN), ""
    except Exception as error:
        pass_on(error, "run.engine=fast", "run.device=cpu")
        served, how = False, f" ({type(error).__name__}: {first_line(error, 120)})"
    if not served:
        raise UserError(
            f"model.path: {type(model).__name__} changes its hidden states or its logits around the LM head in a way "
            f"the update does not know{how}; use a model whose logits are head(hidden states), as Qwen, Llama, "
            "Mistral, Gemma and GPT-2 models"
        )
    return plain


@torch.no_grad()
def _try_length(model: Any, length: int) -> str:
    """Return why prompts cannot be shared in texts of this length: final hidden states, one text at a time."""
    few = min(_FEW, length // 2)
    for prompt, completion in ((length - few, few), (few, length - few)):
        texts = ((3, prompt, (completion,)),)
        try:
            packed, plain = (_hidden(model, _probe_batch(model, texts, shared_prompt=each)) for each in (True, False))
        except Exception as error:
            what = "no memory to try it" if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"
            return f"{what} at {length:,} tokens"
        if not _same(packed, plain):
            return f"packed and plain hidden states differ at {length:,} tokens"
    return ""


def _hidden(model: Any, batch: MicroBatch) -> Tensor:
    forward = ModuleForward(model, nullcontext)
    with nullcontext() if batch.layout is None else packed_attention(forward.decoder.config):
        return forward.hidden(batch)


def _logits(model: Any, batch: MicroBatch) -> Tensor:
    return ModuleForward(model, nullcontext).head(_hidden(model, batch))


def _same(first: Tensor, second: Tensor, tolerance: float = TOLERANCE) -> bool:
    tolerance = tolerance if first.dtype == torch.float32 else 100 * TOLERANCE
    spread = (second - second.mean(dim=-1, keepdim=True)).float().norm()
    return bool((first.float() - second.float()).norm() <= tolerance * spread)


_SHORT = ((3, 5, (4, 2)), (40, 3, (1, 6)))
_FEW = 16
"""Tokens of the shorter part of a long text: its prompt in one, its completion in the other."""


def _probe_batch(model: Any, texts: Sequence[tuple[int, int, tuple[int, ...]]], *, shared_prompt: bool) -> MicroBatch:
    """Return groups of made-up tokens, given as (first token, tokens of the prompt, of each completion)."""
    embedding = model.get_input_embeddings().weight

    def made_up(start: int, count: int) -> tuple[int, ...]:
        return tuple((start + 7 * i) % len(embedding) for i in range(count))

    groups = [
        RolloutGroup(
            Problem(question="probe", answer="0"), Prompt(made_up(start, length), 0),
            tuple(Completion(made_up(start + n, n), (0.0,) * n, "eos") for n in lengths), ("",) * len(lengths),
        )
        for start, length, lengths in texts
    ]  # fmt: skip
    pieces = [Piece(b, tuple(range(len(lengths)))) for b, (_, _, lengths) in enumerate(texts)]
    ends = accumulate((n for _, _, lengths in texts for n in lengths), initial=0)
    offsets = [[next(ends) for _ in lengths] for _, _, lengths in texts]
    batch: MicroBatch = uploaded(
        build_micro_batch(groups, offsets, pieces, shared_prompt=shared_prompt), embedding.device
    )
    return batch
