"""Drawing tokens: counted uniform numbers through the inverse CDF; each a function of seed, problem, sample, place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mathgrpo.types import Sampling


def sample_tokens(logits_RV: Tensor, uniforms_R: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return sampled ids and their log-probabilities under the distribution they were really drawn from.

    That distribution is the softmax after temperature and truncation; for temperature 0 the id is the argmax
    and the log-probability is the plain softmax's.

    Shapes: -> int64[R], float32[R].
    """
    scores = logits_RV.float()
    if sampling.temperature == 0.0:
        ids = scores.argmax(-1)
        return ids, scores.gather(1, ids[:, None]).squeeze(1) - scores.logsumexp(-1)
    scores = truncate(scores if sampling.temperature == 1.0 else scores / sampling.temperature, sampling)
    return _inverse_cdf(scores, uniforms_R)


def rounding_noise(dtype: torch.dtype, temperature: float = 1.0) -> float:
    """Return how far right computations of a token's log-probability are apart on average, in nats, at most.

    A temperature below 1 multiplies the logits and their rounding.
    """
    return (2e-3 if dtype == torch.float32 else 0.15) / min(1.0, temperature or 1.0)


def truncate(scores_RV: Tensor, sampling: Sampling) -> Tensor:
    """Return the scores with every token outside top-k, then top-p, then min-p at minus infinity.

    top-k keeps the k highest (and ties of the k-th); top-p keeps the smallest set of the most likely tokens whose
    probability, renormalised after top-k, reaches top_p; min-p keeps those at least min_p times as likely as the
    most likely one. The most likely token always stays.
    """
    scores = scores_RV
    if 0 < sampling.top_k < scores.shape[-1]:
        lowest = scores.topk(sampling.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < lowest, -torch.inf)
    if sampling.top_p < 1.0:
        scores = _keep_top_p(scores, sampling.top_p)
    if sampling.min_p > 0.0:
        threshold = scores.amax(-1, keepdim=True) + math.log(sampling.min_p)
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    return scores


def _keep_top_p(scores_RV: Tensor, top_p: float) -> Tensor:
    ordered, index = scores_RV.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1, dtype=torch.float64)
    before = probabilities.cumsum(-1) - probabilities
    dropped = before >= top_p
    dropped[:, 0] = False
    return scores_RV.masked_fill(torch.zeros_like(dropped).scatter(1, index, dropped), -torch.inf)


def _inverse_cdf(scores_RV: Tensor, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token whose interval of the cumulative distribution holds the uniform number.

    One uniform a row instead of noise over the vocabulary. A float32 running sum over 150,000 tokens would lose the
    rare ones, so the sum is taken in two levels: over block totals, then inside the block that was hit, both in
    float64. Tokens of probability 0 are never drawn.
    """
    num_rows, vocab = scores_RV.shape
    size = 1 << max(4, (vocab.bit_length() + 1) // 2)
    num_blocks = -(-vocab // size)
    highest = scores_RV.amax(-1, keepdim=True)
    weights = scores_RV.new_empty(num_rows, num_blocks * size)
    weights[:, vocab:] = 0.0
    torch.sub(scores_RV, highest, out=weights[:, :vocab])
    weights[:, :vocab].exp_()
    blocks = weights.view(num_rows, num_blocks, size)

    block_cdf = blocks.sum(-1).double().cumsum(-1)
    total = block_cdf[:, -1:]
    block, fraction = _locate(block_cdf, uniforms_R.double()[:, None])
    token_cdf = blocks.gather(1, block[:, :, None].expand(-1, 1, size)).squeeze(1).double().cumsum(-1)
    token, _ = _locate(token_cdf, fraction)
    ids = block * size + token
    logprobs = (scores_RV.gather(1, ids) - highest).double() - total.log()
    return ids.squeeze(1), logprobs.squeeze(1).float()


def _locate(cdf: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first bin whose cumulative weight exceeds fraction * total, and how far into it that point lies.

    Shapes: cdf float64[R, K], fraction float64[R, 1] in [0, 1) -> int64[R, 1], float64[R, 1] in [0, 1).
    """
    target = fraction * cdf[:, -1:]
    found = torch.searchsorted(cdf, target, right=True).clamp_(max=cdf.shape[1] - 1)
    upper = cdf.gather(1, found)
    lower = cdf.gather(1, (found - 1).clamp_(min=0)).masked_fill_(found == 0, 0.0)
    inside = ((target - lower) / (upper - lower)).clamp_(0.0, 1.0 - 2.0**-53)
    return found, inside


_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def row_keys(seed: int, problem_keys: Sequence[int], samples: Sequence[int]) -> Tensor:
    """Return one 64-bit stream key for each (problem, sample) pair.

    Shapes: int64[R] for R pairs.
    """
    problems = torch.tensor(list(problem_keys), dtype=torch.int64)
    draws = torch.tensor(list(samples), dtype=torch.int64)
    start = _mix(torch.tensor([seed], dtype=torch.int64) + _GOLDEN)
    return _mix(_mix(start ^ problems) ^ draws)


def uniforms(keys: Tensor, positions: Tensor) -> Tensor:
    """Return the uniform number of each row at a position: in [0, 1), a multiple of 2^-53.

    Shapes: keys int64[R], positions int64[R] -> float64[R]; other shapes broadcast.
    Source: SplitMix64 (Steele, Lea, Flood 2014), addressed by counter instead of stepped.
    """
    bits = _mix(keys + (positions + 1) * _GOLDEN)
    return _shift(bits, 11).double() * 2.0**-53


def _mix(z: Tensor) -> Tensor:
    """Return SplitMix64's finaliser: a bijection on 64 bits in which every input bit flips half of the output."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Return a logical right shift; torch shifts int64 arithmetically, so the sign's copies are cut off."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
