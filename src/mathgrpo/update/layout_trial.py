"""Whether a model's prompts can be shared in the update: its logits in both layouts, compared once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from mathgrpo.update.attention.packed import packed_attention
from mathgrpo.update.logprobs import decoder_states, split_model
from mathgrpo.update.pack import MicroBatch, Piece, build_micro_batch
from mathgrpo.update.step_tokens import step_tokens

TOLERANCE = 1e-3
"""Relative difference below which two fp32 computations of logits count as the same; 16-bit ones get 100 times it."""


@torch.no_grad()
def try_layouts(model: Any) -> str:
    decoder, _ = split_model(model)
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
    decoder, head = split_model(model)
    logits: Tensor = head(decoder_states(decoder, batch).flatten(0, 1).index_select(0, batch.logit_rows))
    return logits


def _same(first: Tensor, second: Tensor) -> bool:
    tolerance = TOLERANCE if first.dtype == torch.float32 else 100 * TOLERANCE
    spread = (second - second.mean(dim=-1, keepdim=True)).float().norm()
    return bool((first.float() - second.float()).norm() <= tolerance * spread)


def _probe_batch(model: Any, *, shared_prompt: bool) -> MicroBatch:
    """Return two groups of two completions, of made-up tokens and unequal lengths."""
    vocab_size = model.get_input_embeddings().weight.shape[0]
    groups = []
    for start, prompt_length, lengths in ((3, 5, (4, 2)), (40, 3, (1, 6))):
        ids = [(start + 7 * i) % vocab_size for i in range(prompt_length + sum(lengths))]
        completions, begin = [], prompt_length
        for length in lengths:
            completions.append(Completion(tuple(ids[begin : begin + length]), (0.0,) * length, "eos"))
            begin += length
        problem = Problem(question=f"probe {start}", answer="0")
        prompt = Prompt(tuple(ids[:prompt_length]), 0)
        groups.append(RolloutGroup(problem, prompt, tuple(completions), ("", ""), advantages=(1.0, -1.0)))
    device = model.get_input_embeddings().weight.device
    tokens = step_tokens(groups, GrpoSection.model_validate({}), 8, device)
    pieces = [Piece(0, (0, 1)), Piece(1, (0, 1))]
    return build_micro_batch(groups, tokens, pieces, shared_prompt=shared_prompt, device=device)
