"""What is compared: engines with plain forward passes, draws with their distribution, gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.case import Numbers, WrongNumbers
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection, OptimizerSection
from mathgrpo.models import Policy
from mathgrpo.optim.master_adamw import master_of
from mathgrpo.optim.optimizer import build_optimizer, trainable_parameters
from mathgrpo.rollout.cuda.kernels import TorchKernels
from mathgrpo.rollout.cuda.places import NEW, PlaceTable, Row
from mathgrpo.rollout.sampling import row_keys, sample_tokens, uniforms
from mathgrpo.rollout.trial import plain_logits
from mathgrpo.types import Completion, Prompt, RolloutGroup, Sampling
from mathgrpo.update import policy_update

SMALLEST_P = 1e-6
"""Of a χ² test that is run a few times a day: what falls below is not chance."""


def completion_logits(policy: Policy, prompt: Prompt, completion: Completion) -> Tensor:
    """Return the logits that a plain forward pass gives for each token of a completion, float32[T, V]."""
    return plain_logits(policy, [*prompt.ids, *completion.ids])[len(prompt.ids) - 1 : -1]


def picked_logprobs(logits: Tensor, completion: Completion) -> Tensor:
    """Return the log-probabilities of a completion's tokens, [T]."""
    ids = torch.tensor(completion.ids, device=logits.device)
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


def against_plain(
    policy: Policy, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Completion]], sampling: Sampling
) -> Numbers:
    """Return how completions compare with plain forward passes over them.

    logprob_difference, largest: mean and largest difference of log-probabilities from the plain pass in the policy's
    precision. noise: mean difference of that pass from one in float32. same_tokens: the share of tokens that the same
    noise draws from the plain pass's logits.
    """
    exact = dataclasses.replace(policy, compute_dtype=torch.float32)
    keys = row_keys(sampling.seed, [p.key for p in prompts for _ in drawn[0]], [*range(len(drawn[0]))] * len(prompts))
    rows = [(prompt, completion) for prompt, group in zip(prompts, drawn, strict=True) for completion in group]
    off, noise, same = [], [], []
    for (prompt, completion), key in zip(rows, keys, strict=True):
        plain, precise = (completion_logits(p, prompt, completion) for p in (policy, exact))
        ids = torch.tensor(completion.ids, device=plain.device)
        positions = torch.arange(len(ids), device=plain.device)
        redrawn, _ = sample_tokens(plain, uniforms(key.to(plain.device).expand(len(ids)), positions), sampling)
        picked, wanted = (picked_logprobs(logits, completion) for logits in (plain, precise))
        off.append((torch.tensor(completion.logprobs, device=plain.device) - picked).abs())
        noise.append((picked - wanted).abs())
        same.append((redrawn == ids).float())
    return {
        "logprob_difference": float(torch.cat(off).mean()), "largest": float(torch.cat(off).max()),
        "noise": float(torch.cat(noise).mean()), "same_tokens": float(torch.cat(same).mean()),
    }  # fmt: skip


def require_plain(numbers: Numbers, dtype: torch.dtype) -> Numbers:
    """Return the numbers of `against_plain` when rounding explains them.

    In float32 a draw may differ where the noise falls within rounding of the border of two tokens.
    Raises: WrongNumbers otherwise; NaN is never explained.
    """
    if dtype == torch.float32:
        good = numbers["largest"] <= 2e-3 and numbers["same_tokens"] >= 0.98
    else:
        good = numbers["logprob_difference"] <= 2.0 * numbers["noise"] + 1e-6
    if not good:
        raise WrongNumbers("its log-probabilities or tokens are not those of the plain forward pass", numbers)
    return numbers


def chi_square(kernels: TorchKernels, device: str, vocabulary: int, steps: int, rows: int, bins: int) -> Numbers:
    """Return how steps × rows draws from one distribution compare with it: χ² over bins of tokens, and its p-value.

    rows: one of the engine's batch sizes (`buckets.BUCKETS`).
    Raises: WrongNumbers when the draws are not from that distribution, or their log-probabilities are not its own.
    """
    generator = torch.Generator().manual_seed(5)
    logits = (1.5 * torch.randn(1, vocabulary, generator=generator)).to(device)
    table = PlaceTable((1 << 24,), torch.device(device))
    table.reserve(rows * steps, steps)
    keys = row_keys(11, list(range(rows)), [0] * rows).tolist()
    table.load([Row(i, keys[i], 1, i, 1, 1, i * steps) for i in range(rows)], [NEW] * rows, rows, 1)
    places, line = table.view(rows), torch.zeros(rows, dtype=torch.int64, device=device)
    for _ in range(steps):
        kernels.sample(logits, line, places, places.numbers, Sampling(steps))
    ids, logprobs = places.ids[1 : 1 + rows * steps], places.logprobs[1 : 1 + rows * steps]
    exact = logits[0].double().log_softmax(-1)
    off = float((logprobs - exact[ids]).abs().max())
    bin_of = torch.arange(vocabulary, device=device) * bins // vocabulary
    expected = torch.zeros(bins, dtype=torch.float64, device=device).index_add_(0, bin_of, exact.exp()) * len(ids)
    seen = torch.bincount(bin_of[ids], minlength=bins).double()
    statistic = ((seen - expected) ** 2 / expected).sum()
    p = float(torch.special.gammaincc(torch.tensor((bins - 1) / 2, dtype=torch.float64), statistic.cpu() / 2))
    numbers = {"p": p, "chi2": float(statistic), "freedom": bins - 1, "draws": len(ids), "logprob_off": off}
    if not p >= SMALLEST_P:
        raise WrongNumbers("the draws are not from their distribution", numbers)
    if not off <= 1e-4:
        raise WrongNumbers("the log-probabilities are not those of the distribution drawn from", numbers)
    return numbers


def gradient_of(
    policy: Policy, groups: list[RolloutGroup], **how: Any
) -> tuple[dict[str, Tensor], dict[str, float], tuple[str, ...]]:
    """Return one update's gradient by parameter before clipping, its metrics and notes; no weight is changed.

    how: fields of `Machinery`.
    """
    machinery = Machinery(**{"compute_copy": "off"} | how)
    optimizer = build_optimizer(policy.model, OptimizerSection(), policy.compute_dtype, machinery=machinery)
    gradient: dict[str, Tensor] = {}

    def keep() -> None:
        for name, parameter in trainable_parameters(policy.model):
            gradient[name] = _grad(master_of(optimizer, parameter))

    optimizer.step = keep  # type: ignore[method-assign, assignment]
    longest = max(len(completion.ids) for group in groups for completion in group.completions)
    stats = policy_update(
        policy, optimizer, groups, GrpoSection(), temperature=1.0, max_new_tokens=longest,
        max_grad_norm=1e30, machinery=machinery,
    )  # fmt: skip
    return gradient, stats.metrics, stats.notes


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.detach().float().clone()
