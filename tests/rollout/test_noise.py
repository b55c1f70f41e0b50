"""Counted noise: it is SplitMix64, uniform, and independent across neighbouring counters."""

from __future__ import annotations

import torch

from mathgrpo.rollout.sampling import row_keys, uniforms

MASK = (1 << 64) - 1


def splitmix64(z: int) -> int:
    """The finaliser in plain Python integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_equals_splitmix64_in_plain_integers() -> None:
    seed, problem, sample, position = 5, (1 << 62) + 12345, 3, 7
    key = splitmix64(splitmix64(splitmix64(seed + 0x9E3779B97F4A7C15) ^ problem) ^ sample)
    expected = (splitmix64((key + (position + 1) * 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53
    got = uniforms(row_keys(seed, [problem], [sample]), torch.tensor([position]))
    assert got.dtype == torch.float64 and got.item() == expected


def grid() -> torch.Tensor:
    """Draws for 32 neighbouring problems x 32 samples x 64 positions under 4 seeds, [4, 32, 32, 64]."""
    problems = [p for p in range(32) for _ in range(32)]
    samples = [s for _ in range(32) for s in range(32)]
    draws = [uniforms(row_keys(seed, problems, samples)[:, None], torch.arange(64)[None]) for seed in range(4)]
    return torch.stack(draws).view(4, 32, 32, 64)


def test_is_uniform() -> None:
    """Chi-squared over 256 bins, 262,144 draws: 255 degrees of freedom, 0.999 quantile 330.5."""
    draws = grid().flatten()
    assert draws.min() >= 0.0 and draws.max() < 1.0
    counts = torch.histc(draws, bins=256, min=0.0, max=1.0)
    expected = len(draws) / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 330.5
    assert len(draws.unique()) == len(draws)


def test_neighbours_are_independent() -> None:
    """Pairs one apart in seed, problem, sample or position fill a 16 x 16 table evenly (255 degrees of freedom)."""
    draws = grid()
    for axis in range(4):
        length = draws.shape[axis]
        left, right = draws.narrow(axis, 0, length - 1).flatten(), draws.narrow(axis, 1, length - 1).flatten()
        counts = torch.bincount((left * 16).long() * 16 + (right * 16).long(), minlength=256).double()
        expected = len(left) / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 345.0, axis
        correlation = float(torch.corrcoef(torch.stack((left, right)))[0, 1])
        assert abs(correlation) < 4 / len(left) ** 0.5, axis


def test_every_counter_matters_and_nothing_else() -> None:
    key = row_keys(1, [10], [2])
    assert torch.equal(row_keys(1, [9, 10, 11], [0, 2, 5])[1:2], key)
    for other in (row_keys(2, [10], [2]), row_keys(1, [11], [2]), row_keys(1, [10], [3]), row_keys(1, [2], [10])):
        assert not torch.equal(other, key)
