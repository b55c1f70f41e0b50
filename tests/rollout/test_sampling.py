"""The sampler: its distribution, its truncations, its log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from mathgrpo.rollout.sampling import row_keys, sample_tokens, truncate, uniforms
from mathgrpo.types import Sampling

PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])


def draws(count: int, seed: int = 0) -> torch.Tensor:
    return uniforms(row_keys(seed, range(count), [0] * count), torch.zeros(count, dtype=torch.int64))


def kept(sampling: Sampling) -> list[float]:
    """The distribution left after truncation, rounded."""
    scores = truncate(PROBABILITIES.log()[None] / sampling.temperature, sampling)
    return [round(p, 6) for p in scores.softmax(-1)[0].tolist()]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1), [0.05, 0.4, 0.1, 0.25, 0.2]),
        # the two most likely, 0.4 and 0.25, over 0.65
        (Sampling(1, top_k=2), [0, 0.615385, 0, 0.384615, 0]),
        # 0.4 + 0.25 = 0.65 < 0.7, so 0.2 is needed too: over 0.85
        (Sampling(1, top_p=0.7), [0, 0.470588, 0, 0.294118, 0.235294]),
        (Sampling(1, top_p=0.01), [0, 1, 0, 0, 0]),
        # at least 0.5 * 0.4 = 0.2: 0.4, 0.25, 0.2 over 0.85 (0.49 keeps clear of rounding at the edge)
        (Sampling(1, min_p=0.49), [0, 0.470588, 0, 0.294118, 0.235294]),
        # top-k first: 0.4, 0.25, 0.2 become 0.4706, 0.2941, 0.2353; then 0.4706 + 0.2941 = 0.7647 reaches 0.75;
        # without renormalising, 0.4 + 0.25 = 0.65 would not
        (Sampling(1, top_k=3, top_p=0.75), [0, 0.615385, 0, 0.384615, 0]),
        # temperature first: p^2 over sum 0.275 gives 0.0091 0.5818 0.0364 0.2273 0.1455; top-p 0.8 keeps two
        (Sampling(1, temperature=0.5, top_p=0.8), [0, 0.719101, 0, 0.280899, 0]),
        (Sampling(1, top_k=99), [0.05, 0.4, 0.1, 0.25, 0.2]),
    ],
)
def test_truncation_keeps_what_was_computed_by_hand(sampling: Sampling, expected: list[float]) -> None:
    assert kept(sampling) == pytest.approx(expected, abs=2e-6)


def test_top_p_keeps_one_of_two_equals() -> None:
    scores = truncate(torch.zeros(1, 4), Sampling(1, top_p=0.5))
    assert scores.isfinite().sum() == 2


@pytest.mark.parametrize("vocab", [2, 37, 3000])
def test_frequencies_follow_the_softmax(vocab: int) -> None:
    """Chi-squared of 60,000 draws against the softmax, rare tokens pooled; 5 standard deviations allowed."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(vocab, generator=generator) * 2
    count = 60_000
    ids = torch.cat(
        [sample_tokens(logits.expand(len(u), -1), u, Sampling(1))[0] for u in draws(count, seed=vocab).split(4000)]
    )
    expected = logits.double().softmax(-1) * count
    observed = torch.bincount(ids, minlength=vocab).double()
    common = expected >= 10
    bins = [(observed[common], expected[common])]
    if (~common).any():
        bins.append((observed[~common].sum()[None], expected[~common].sum()[None]))
    chi = sum(float(((o - e) ** 2 / e).sum()) for o, e in bins)
    freedom = sum(len(o) for o, _ in bins) - 1
    assert chi < freedom + 5 * math.sqrt(2 * freedom)


def test_truncated_frequencies_and_logprobs_belong_together() -> None:
    count = 40_000
    sampling = Sampling(1, temperature=0.8, top_k=3)
    ids, logprobs = sample_tokens(PROBABILITIES.log().expand(count, -1), draws(count), sampling)
    powers = PROBABILITIES.double() ** 1.25
    powers[[0, 2]] = 0
    expected = powers / powers.sum()
    for token in range(5):
        share = float((ids == token).double().mean())
        assert abs(share - float(expected[token])) < 4 * math.sqrt(0.25 / count)
        if expected[token]:
            assert logprobs[ids == token][0].item() == pytest.approx(math.log(expected[token]), abs=1e-6)
        else:
            assert share == 0


def test_a_large_vocabulary_loses_no_rare_token() -> None:
    """150,000 equal tokens: u = (k + 1/2) / V must give token k; a float32 running sum would be off by hundreds."""
    vocab = 150_001
    wanted = torch.tensor([0, 1, 77_777, 149_999, 150_000])
    ids, logprobs = sample_tokens(torch.full((5, vocab), 3.0), (wanted.double() + 0.5) / vocab, Sampling(1))
    assert ids.tolist() == wanted.tolist()
    assert logprobs.tolist() == pytest.approx([-math.log(vocab)] * 5, abs=1e-5)


def test_extreme_uniforms_stay_on_possible_tokens() -> None:
    logits = torch.full((2, 1000), -torch.inf)
    logits[:, [5, 900]] = 0.0
    ids, logprobs = sample_tokens(logits, torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64), Sampling(1))
    assert ids.tolist() == [5, 900]
    assert logprobs.tolist() == pytest.approx([-math.log(2)] * 2)


def test_greedy_takes_the_argmax_and_the_plain_softmax() -> None:
    greedy = Sampling(1, temperature=0.0, top_k=1)
    ids, logprobs = sample_tokens(PROBABILITIES.log()[None], torch.tensor([0.99]), greedy)
    assert ids.tolist() == [1] and logprobs.tolist() == pytest.approx([math.log(0.4)])


def test_the_logits_are_not_changed() -> None:
    logits = PROBABILITIES.log()[None].clone()
    before = logits.clone()
    sample_tokens(logits, torch.tensor([0.3]), Sampling(1, temperature=0.7, top_k=2, top_p=0.9, min_p=0.1))
    assert torch.equal(logits, before)
