"""Groups to micro-batches: which completions are computed together, and their tensors.

Two layouts hold the same tokens:

    shared   one row [prompt][c1]...[cG][prompt][c1]...; positions restart after the prompt, so that every completion
             continues it. The prompt is computed once for all its completions in the micro-batch.
    plain    one right-padded row [prompt][completion] for each completion, standard attention.

In both, a completion's last token is left out of the input: its hidden state predicts nothing that has a loss. The
first completion token's logit comes from the prompt's last row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo.importance import Importance
from mathgrpo.grpo.loss import Objective
from mathgrpo.grpo.objectives import known_objective
from mathgrpo.types import RolloutGroup
from mathgrpo.update.attention.packed import AttentionKernel, PackedLayout, packed_layout

# Shape legend: M completion tokens of the step, N of the micro-batch, T input tokens of a row.

Spans = tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int, int]]]
"""(first row, length) of every prompt, and (first row, length, prompt) of every completion."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Completions of one group that are computed together.

    Attributes:
        group: position of the group in the step.
        completions: positions of its completions in the group.
    """

    group: int
    completions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The tensors of one forward pass.

    Attributes:
        input_ids, position_ids: [1, T] when shared, [rows, T] when plain.
        attention_mask: [rows, T] when plain, else None.
        layout: which rows belong together when shared, for an attention kernel; else None.
        spans: the same as (prompts, completions), see `packed_layout`; None when plain.
        logit_rows, targets: row of the flattened hidden states, and the token it must predict; [N] padded to a bucket.
        token_index: [N] (not padded) position of each target in the step's flat order.
        lengths: completion tokens of each completion, in the order of token_index.
        num_unique: input tokens computed, padding not counted.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    layout: PackedLayout | None
    spans: Spans | None
    logit_rows: Tensor
    targets: Tensor
    token_index: Tensor
    lengths: tuple[int, ...]
    num_unique: int


def objective_of(section: GrpoSection, importance: Importance | None = None) -> Objective:
    """Return the objective of a recipe's settings.

    importance: weights for a sampler with other numerics.
    Raises: UserError for a loss or settings of it that do not exist.
    """
    return known_objective(section.loss, tuple(section.loss_settings.items()), section.beta, importance)


def pieces_with_loss(
    groups: Sequence[RolloutGroup], section: GrpoSection, *, skip_zero_advantage: bool = True
) -> list[Piece]:
    """Return the completions whose loss term can have a gradient, group by group.

    Left out, exactly: completions without tokens; truncated ones when they are masked; and, when the objective says
    that its loss is then 0 whatever the policy does, and skip_zero_advantage is on, those with advantage 0. A group of
    which nothing is left is not computed at all.
    """
    skip_zero = skip_zero_advantage and objective_of(section).zero_without_advantage
    pieces = []
    for b, group in enumerate(groups):
        chosen = tuple(
            g
            for g, completion in enumerate(group.completions)
            if completion.ids
            and not (section.mask_truncated and completion.finish_reason == "length")
            and not (skip_zero and group.advantages[g] == 0.0)
        )
        if chosen:
            pieces.append(Piece(b, chosen))
    return pieces


def plan_micro_batches(
    groups: Sequence[RolloutGroup], pieces: Iterable[Piece], token_budget: int, *, shared_prompt: bool
) -> list[list[Piece]]:
    """Return the pieces in micro-batches of at most token_budget unique tokens (plain: padded tokens).

    A piece larger than the budget is split by completions and its prompt repeated; a single completion is never split.
    Pieces of similar length go together, the longest first, so that a lack of memory shows at once.

    Example: token_budget 10, prompts of 3, groups of 2 completions of 4 -> one group a micro-batch (3 + 2 * 3 = 9).
    """
    split = [part for piece in pieces for part in _split(groups, piece, token_budget, shared_prompt)]
    split.sort(key=lambda piece: (-_row_length(groups, piece), piece.group, piece.completions))
    plan: list[list[Piece]] = []
    used = 0
    for piece in split:
        cost = micro_batch_cost(groups, [piece], shared_prompt=shared_prompt)
        # The first piece of a plain micro-batch is its longest, so every later row is padded to it.
        if plan and not shared_prompt:
            cost = _row_length(groups, plan[-1][0]) * len(piece.completions)
        if plan and used + cost <= token_budget:
            plan[-1].append(piece)
            used += cost
        else:
            plan.append([piece])
            used = micro_batch_cost(groups, [piece], shared_prompt=shared_prompt)
    return plan


def micro_batch_cost(groups: Sequence[RolloutGroup], pieces: Sequence[Piece], *, shared_prompt: bool) -> int:
    """Return the tokens a micro-batch takes of a budget: unique ones when shared, padded ones when plain."""
    if not shared_prompt:
        return max(_row_length(groups, piece) for piece in pieces) * sum(len(piece.completions) for piece in pieces)
    inputs = sum(len(groups[piece.group].completions[g].ids) - 1 for piece in pieces for g in piece.completions)
    return inputs + sum(len(groups[piece.group].prompt.ids) for piece in pieces)


def build_micro_batch(
    groups: Sequence[RolloutGroup],
    offsets: Sequence[Sequence[int]],
    pieces: Sequence[Piece],
    *,
    shared_prompt: bool,
    attention: AttentionKernel | None = "sdpa",
    context: int = 1 << 30,
) -> MicroBatch:
    """Return the tensors of one micro-batch; with shared prompts, laid out for an attention kernel.

    context: positions that the model has; no plain row is padded beyond them.
    offsets: offsets[b][g] is where completion g of group b begins in the step's flat order.
    attention: None leaves the layout out; the fused forward pass makes its own.
    """
    rows = _shared_rows(groups, pieces) if shared_prompt else _plain_rows(groups, pieces, context)
    places = [(piece.group, g) for piece in pieces for g in piece.completions]
    lengths = tuple(len(groups[b].completions[g].ids) for b, g in places)
    layout = None
    if rows.spans is not None and attention is not None:
        layout = packed_layout(*rows.spans, len(rows.positions[0]), bucket, attention)
    return MicroBatch(
        input_ids=torch.tensor(rows.ids),
        position_ids=torch.tensor(rows.positions),
        attention_mask=None if shared_prompt else torch.tensor(rows.mask),
        layout=layout,
        spans=rows.spans,
        logit_rows=_padded(rows.logit_rows),
        targets=_padded([token for b, g in places for token in groups[b].completions[g].ids]),
        token_index=torch.tensor(
            [offsets[b][g] + i for (b, g), length in zip(places, lengths, strict=True) for i in range(length)]
        ),
        lengths=lengths,
        num_unique=sum(map(sum, rows.mask)),
    )


def bucket(size: int, smallest: int = 16) -> int:
    """Return `size` rounded up so that few different values occur, 32 to a doubling; above 512, by 1/16 at most.

    Fresh shapes cost memory in the primitive caches of CPU libraries and compile time on GPUs.

    Example: 1 -> 16, 100 -> 112, 1000 -> 1008, 5001 -> 5120.
    """
    step = max(smallest, 1 << max(0, size.bit_length() - 6))
    return -(-size // step) * step


class _Rows(NamedTuple):
    """What a layout decides: its rows of tokens and positions, 1 where one is no padding, where logits are read."""

    ids: list[list[int]]
    positions: list[list[int]]
    mask: list[list[int]]
    logit_rows: list[int]
    spans: Spans | None


def _shared_rows(groups: Sequence[RolloutGroup], pieces: Sequence[Piece]) -> _Rows:
    ids: list[int] = []
    positions: list[int] = []
    logit_rows: list[int] = []
    prompts: list[tuple[int, int]] = []
    completions: list[tuple[int, int, int]] = []
    for n, piece in enumerate(pieces):
        prompt = groups[piece.group].prompt.ids
        prompts.append((len(ids), len(prompt)))
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        last_prompt_row = len(ids) - 1
        for g in piece.completions:
            inputs, start = groups[piece.group].completions[g].ids[:-1], len(ids)
            completions.append((start, len(inputs), n))
            ids.extend(inputs)
            positions.extend(range(len(prompt), len(prompt) + len(inputs)))
            logit_rows.extend([last_prompt_row, *range(start, len(ids))])
    padding = [0] * (bucket(len(ids) + 1) - len(ids))  # one row at least: the fused attention's padding points at it
    spans = tuple(prompts), tuple(completions)
    return _Rows([ids + padding], [positions + padding], [[1] * len(ids)], logit_rows, spans)


def _plain_rows(groups: Sequence[RolloutGroup], pieces: Sequence[Piece], context: int) -> _Rows:
    longest = max(_row_length(groups, piece) for piece in pieces)
    width = max(longest, min(bucket(longest), context))
    rows = _Rows([], [], [], [], None)
    for piece in pieces:
        prompt = groups[piece.group].prompt.ids
        for g in piece.completions:
            row = [*prompt, *groups[piece.group].completions[g].ids[:-1]]
            first, padding = len(rows.ids) * width, [0] * (width - len(row))
            rows.logit_rows.extend(range(first + len(prompt) - 1, first + len(row)))
            rows.ids.append(row + padding)
            # Padding is nowhere further on than the row: there may be no such position, or another rotary embedding.
            rows.positions.append([*range(len(row)), *([len(row) - 1] * len(padding))])
            rows.mask.append([1] * len(row) + padding)
    return rows


def _padded(values: list[int]) -> Tensor:
    return torch.tensor(values + [0] * (bucket(len(values)) - len(values)))


def _row_length(groups: Sequence[RolloutGroup], piece: Piece) -> int:
    """Return the input length of the piece's longest completion with its prompt."""
    group = groups[piece.group]
    return len(group.prompt.ids) + max(len(group.completions[g].ids) - 1 for g in piece.completions)


def _split(groups: Sequence[RolloutGroup], piece: Piece, token_budget: int, shared_prompt: bool) -> list[Piece]:
    """Return the piece in parts that each fit the budget, or hold a single completion."""
    parts: list[Piece] = []
    for g in piece.completions:
        longer = Piece(piece.group, (*parts[-1].completions, g)) if parts else None
        if longer is not None and micro_batch_cost(groups, [longer], shared_prompt=shared_prompt) <= token_budget:
            parts[-1] = longer
        else:
            parts.append(Piece(piece.group, (g,)))
    return parts
