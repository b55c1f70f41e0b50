"""Arithmetic and memory traffic that a step cannot do without, counted from shapes.

A multiplication with its addition is 2 FLOPs. What is counted is what the mathematics needs: every prompt once, no
padding, nothing twice. An engine that computes more than that shows a lower share of its machine, as it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What counting needs to know of a decoder-only transformer.

    Attributes:
        linear, trained_linear: weights in the matrix products every token passes, the head left out; those that train.
        head, trained_head: weights of the head, hidden size times vocabulary; those that train.
        attention: layers times heads times head size: half the FLOPs of one query meeting one key.
        linear_bytes, head_bytes: these weights in the precision they are read in.
        kv_bytes: keys and values of one token, all layers.
    """

    linear: int
    trained_linear: int
    head: int
    trained_head: int
    attention: int
    linear_bytes: int
    head_bytes: int
    kv_bytes: int


@dataclass(frozen=True, slots=True)
class GroupLengths:
    """Tokens of one prompt and of each of its completions, the end token included."""

    prompt: int
    completions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs, and bytes that must come from memory: each different byte once."""

    flops: int
    num_bytes: int


def forward_flops(shape: ModelShape, tokens: int, attended: int, head_tokens: int) -> int:
    """Return the FLOPs of a forward pass.

    tokens: tokens computed. attended: pairs of a query and a key it sees. head_tokens: tokens whose logits are needed.

    2 FLOPs a weight and token, and 4 a pair and head element (2 for the score, 2 for the value): Kaplan et al. 2020
    (arXiv:2001.08361), section 2.1, with attention counted exactly. Norms, rotations and softmax are left out.
    """
    return 2 * shape.linear * tokens + 4 * shape.attention * attended + 2 * shape.head * head_tokens


def training_flops(shape: ModelShape, tokens: int, attended: int, head_tokens: int) -> int:
    """Return the FLOPs of a forward and a backward pass, without any recomputation.

    The backward pass has two products for each one of the forward pass, for the gradient of the input and of the
    weight (Chowdhery et al. 2022, arXiv:2204.02311, appendix B: 6 FLOPs a weight and token); a frozen weight has no
    gradient of its own. Attention has no weights: both its gradients are always needed.
    """
    forward = forward_flops(shape, tokens, attended, head_tokens)
    of_weights = 2 * shape.trained_linear * tokens + 2 * shape.trained_head * head_tokens
    return 2 * forward + 4 * shape.attention * attended + of_weights


def update_size(groups: Sequence[GroupLengths]) -> tuple[int, int, int]:
    """Return (tokens, attended, head tokens) of an update on these completions, each prompt computed once.

    A completion's last token is no input: nothing with a loss follows it.

    Example: a prompt of 3 with completions of 2 and 1 -> 4 inputs, 6 + 4 pairs, 3 logits.
        >>> update_size([GroupLengths(3, (2, 1))])
        (4, 10, 3)
    """
    tokens = sum(group.prompt + sum(max(length - 1, 0) for length in group.completions) for group in groups)
    attended = sum(
        _triangle(group.prompt) * (1 - len(group.completions))
        + sum(_triangle(group.prompt + max(length - 1, 0)) for length in group.completions)
        for group in groups
    )
    return tokens, attended, sum(sum(group.completions) for group in groups)


def prefill_work(shape: ModelShape, groups: Sequence[GroupLengths]) -> Work:
    """Return the work of computing every prompt once, with the logits of its last token; all weights are read once."""
    tokens = sum(group.prompt for group in groups)
    attended = sum(_triangle(group.prompt) for group in groups)
    num_bytes = shape.linear_bytes + shape.head_bytes + tokens * shape.kv_bytes
    return Work(forward_flops(shape, tokens, attended, len(groups)), num_bytes)


def decode_work(shape: ModelShape, groups: Sequence[GroupLengths]) -> list[Work]:
    """Return the work of every decode step, all completions at once and none of them past its end.

    Step t (from 1) takes each completion's token t and gives its token t + 1, so a completion of n tokens is in the
    steps 1 to n - 1; its first token came with the prefill. Bytes: all weights once, each prompt's keys and values
    once for all its completions, each completion's own.

    Costs O(completions + steps) whatever the lengths.
    """
    pairs = [(max(length - 1, 0), group.prompt) for group in groups for length in group.completions]
    longest = [(max((*group.completions, 1)) - 1, group.prompt) for group in groups]
    steps = max((last for last, _ in longest), default=0)

    def still_there(last_steps: list[tuple[int, int]], *, count: bool = False) -> list[int]:
        """Return, for every step, the sum of what goes on at least until it: prompt tokens, or 1 each."""
        ends = [0] * (steps + 1)
        for last, prompt in last_steps:
            ends[last] += 1 if count else prompt
        return list(accumulate(reversed(ends)))[::-1][1:]

    counts = zip(still_there(pairs, count=True), still_there(pairs), still_there(longest), strict=True)
    weights = shape.linear_bytes + shape.head_bytes
    return [
        Work(forward_flops(shape, rows, prompts + t * rows, rows), weights + (shared + t * rows) * shape.kv_bytes)
        for t, (rows, prompts, shared) in enumerate(counts, start=1)
    ]


def _triangle(n: int) -> int:
    """Return 1 + 2 + ... + n: pairs of n tokens that each see themselves and all before."""
    return n * (n + 1) // 2
