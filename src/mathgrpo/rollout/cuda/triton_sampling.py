"""Drawing tokens in one pass over the logits: block sums first, then one block again.

The rule is that of `rollout.sampling`: one counted uniform number through the inverse CDF. So a token drawn here is the
token drawn on a CPU from the same logits, unless the number falls within rounding of the border of two tokens.
A Gumbel-max draw would need noise for every token of the vocabulary and would give other tokens than the CPU does.

Shapes: r rows drawn, V vocabulary, C chunks of the vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mathgrpo.rollout.cuda.places import Places
from mathgrpo.types import Sampling

_LARGEST_CHUNK = 1024
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_2 = tl.constexpr(0x94D049BB133111EB)


def draw(logits: Tensor, rows: Tensor, places: Places, who: Tensor, sampling: Sampling) -> None:
    """Draw a token for the places `who` from logits[rows] without truncation; note it; advance those places.

    Reads the logits once and one chunk of them twice.
    """
    vocab, num_rows = logits.shape[1], len(who)
    chunk = min(_LARGEST_CHUNK, max(16, triton.next_power_of_2(vocab)))
    num_chunks = triton.cdiv(vocab, chunk)
    highest = torch.empty(num_rows, num_chunks, dtype=torch.float32, device=logits.device)
    mass, best = torch.empty_like(highest), torch.empty_like(highest, dtype=torch.int64)
    greedy = sampling.temperature == 0.0
    temperature = 1.0 if greedy else sampling.temperature
    _sum_chunks[(num_rows, num_chunks)](
        logits, rows, highest, mass, best, vocab, logits.stride(0), temperature, num_chunks, CHUNK=chunk, GREEDY=greedy
    )
    _draw_tokens[(num_rows,)](
        logits,
        rows,
        who,
        highest,
        mass,
        best,
        places.keys,
        places.ages,
        places.done,
        places.tokens,
        places.out_starts,
        places.ids,
        places.logprobs,
        places.limit,
        places.eos,
        vocab,
        logits.stride(0),
        temperature,
        num_chunks,
        CHUNK=chunk,
        CHUNKS=max(2, triton.next_power_of_2(num_chunks)),
        ENDS=len(places.eos),
        GREEDY=greedy,
    )


@triton.jit
def _scores(logits, row, column, vocab, stride, temperature):
    scores = tl.load(logits + row * stride + column, mask=column < vocab, other=-float("inf")).to(tl.float32)
    return tl.div_rn(scores, temperature)


@triton.jit
def _sum_chunks(
    logits, rows, highest, mass, best, vocab, stride, temperature, num_chunks, CHUNK: tl.constexpr, GREEDY: tl.constexpr
):
    """Note of one chunk of one row: the highest score, the sum of exp(score - highest), and where the highest is."""
    line, chunk = tl.program_id(0), tl.program_id(1)
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    scores = _scores(logits, tl.load(rows + line), column, vocab, stride, temperature)
    top = tl.max(scores, 0)
    base = tl.where(top == -float("inf"), 0.0, top)
    tl.store(highest + line * num_chunks + chunk, top)
    tl.store(mass + line * num_chunks + chunk, tl.sum(tl.exp(scores - base), 0))
    if GREEDY:
        first = tl.min(tl.where(scores == top, column, vocab - 1), 0)
        tl.store(best + line * num_chunks + chunk, first.to(tl.int64))


@triton.jit
def _draw_tokens(
    logits,
    rows,
    who,
    highest,
    mass,
    best,
    keys,
    ages,
    done,
    tokens,
    out_starts,
    ids,
    logprobs,
    limit,
    eos,
    vocab,
    stride,
    temperature,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    ENDS: tl.constexpr,
    GREEDY: tl.constexpr,
):
    """Merge the chunks of one row, draw, and advance the row's place unless it has ended."""
    line = tl.program_id(0)
    place = tl.load(who + line)
    age = tl.load(ages + place)
    number = tl.arange(0, CHUNKS)
    real = number < num_chunks
    tops = tl.load(highest + line * num_chunks + number, mask=real, other=-float("inf"))
    top = tl.max(tops, 0)
    masses = tl.load(mass + line * num_chunks + number, mask=real, other=0.0).to(tl.float64)
    base = tl.where(top == -float("inf"), 0.0, top)
    masses = masses * tl.exp(tops - base).to(tl.float64)
    if GREEDY:
        chunk = tl.min(tl.where(tops == top, number, num_chunks - 1), 0)
        token = tl.load(best + line * num_chunks + chunk)
        score = top
    else:
        chunk, fraction = _locate(masses, _uniform(tl.load(keys + place), age), CHUNKS)
        column = chunk * CHUNK + tl.arange(0, CHUNK)
        scores = _scores(logits, tl.load(rows + line), column, vocab, stride, temperature)
        inside = tl.exp(scores - tl.max(scores, 0)).to(tl.float64)
        offset, _ = _locate(inside, fraction, CHUNK)
        token = (chunk * CHUNK + offset).to(tl.int64)
        score = tl.sum(tl.where(tl.arange(0, CHUNK) == offset, scores, 0.0), 0)
    logprob = (score - base).to(tl.float64) - tl.log(tl.sum(masses, 0))

    going = tl.load(done + place) == 0
    at = 1 + tl.load(out_starts + place) + age
    tl.store(ids + at, token, mask=going)
    tl.store(logprobs + at, logprob.to(tl.float32), mask=going)
    tl.store(tokens + place, token, mask=going)
    tl.store(ages + place, age + 1, mask=going)
    is_end = tl.max((tl.load(eos + tl.arange(0, ENDS)) == token).to(tl.int32), 0) == 1
    ended = is_end | (age + 1 >= tl.load(limit))
    tl.store(done + place, 1, mask=going & ended)


@triton.jit
def _locate(weights, fraction, SIZE: tl.constexpr):
    """Return the first bin whose cumulative weight exceeds fraction * total, and how far into it that point lies.

    A bin of weight 0 is never returned, unless all are.
    """
    index = tl.arange(0, SIZE)
    cdf = tl.cumsum(weights, 0)
    target = fraction * tl.sum(tl.where(index == SIZE - 1, cdf, 0.0), 0)
    last = tl.max(tl.where(weights > 0, index, 0), 0)
    found = tl.min(tl.where((cdf > target) & (weights > 0), index, last), 0)
    upper = tl.sum(tl.where(index == found, cdf, 0.0), 0)
    lower = tl.sum(tl.where(index == found - 1, cdf, 0.0), 0)
    inside = (target - lower) / (upper - lower)
    return found, tl.minimum(tl.maximum(inside, 0.0), 1.0 - 1.0 / 9007199254740992.0)


@triton.jit
def _uniform(key, position):
    """Return `rollout.noise.uniforms` of one row: SplitMix64 addressed by counter, a multiple of 2^-53."""
    counter = (position + 1).to(tl.uint64, bitcast=True)
    z = key.to(tl.uint64, bitcast=True) + counter * _GOLDEN
    z = (z ^ (z >> 30)) * _MIX_1
    z = (z ^ (z >> 27)) * _MIX_2
    z = z ^ (z >> 31)
    return (z >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)
