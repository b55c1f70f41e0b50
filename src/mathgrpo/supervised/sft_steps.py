"""Supervised training steps: the stages' batches, the loss on completions, the two optimizers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.config.sft_recipe import SftOptimizerSection, SftRecipe
from mathgrpo.formats import Format
from mathgrpo.hardware.cudnn import without_cudnn_attention
from mathgrpo.models import Policy
from mathgrpo.supervised.mixture import examples
from mathgrpo.supervised.sft_batches import Sequences, batches, loss_weights
from mathgrpo.types import Problem
from mathgrpo.update.logprobs import split_model


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step of a supervised run.

    Attributes:
        step: steps done.
        tokens: tokens trained on so far, padding not counted.
        tokens_in_step: tokens of this step alone.
        loss: mean negative log-likelihood of the step's completion tokens.
        learning_rate_factor: share of the full learning rates.
        seconds: what the step took.
    """

    step: int
    tokens: int
    tokens_in_step: int
    loss: float
    learning_rate_factor: float
    seconds: float


def supervised_steps(policy: Policy, recipe: SftRecipe, train: tuple[Problem, ...], fmt: Format) -> Iterator[StepLine]:
    """Train through every stage, yielding after each step."""
    optimizers = _optimizers(policy.model, recipe.optimizer)
    total, done = sum(stage.tokens for stage in recipe.stages), 0
    policy.model.train()
    for step, batch in enumerate(_stage_batches(policy, recipe, train, fmt), start=1):
        started = time.perf_counter()
        factor = learning_rate_factor(done, total, recipe.optimizer)
        loss = _step(policy, batch, optimizers, factor, recipe.optimizer)
        done += batch.num_tokens
        yield StepLine(step, done, batch.num_tokens, loss, factor, time.perf_counter() - started)


def learning_rate_factor(tokens: int, total: int, optimizer: SftOptimizerSection) -> float:
    """Return the factor on the learning rates after `tokens` of `total`: a rise, a plateau, a straight fall to 0.

    Example:
        >>> rates = SftOptimizerSection(warmup_ratio=0.1, decay_ratio=0.5)
        >>> [learning_rate_factor(t, 100, rates) for t in (5, 30, 75)]
        [0.5, 1.0, 0.5]
    """
    rise = tokens / (optimizer.warmup_ratio * total) if optimizer.warmup_ratio else 1.0
    fall = (total - tokens) / (optimizer.decay_ratio * total) if optimizer.decay_ratio else 1.0
    return max(0.0, min(1.0, rise, fall))


def completion_loss(model: Any, batch: Sequences, prompt_weight: float) -> Tensor:
    """Return the weighted mean negative log-likelihood; the head runs only where a weight is not zero."""
    weights = loss_weights(batch, prompt_weight)
    decoder, head = split_model(model)
    hidden_NTD = decoder(input_ids=batch.ids_NT, use_cache=False).last_hidden_state[:, :-1]
    chosen = weights > 0
    logits = head(hidden_NTD[chosen]).float()
    losses = F.cross_entropy(logits, batch.ids_NT[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum()


def _optimizers(model: Any, section: SftOptimizerSection) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return (optimizer, full learning rate) pairs that together own every trainable parameter once."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trainable if section.name == "muon" and p.ndim == 2 and ".layers." in name]
    owned = {id(p) for p in matrices}
    rest = [p for _, p in trainable if id(p) not in owned]
    adamw = torch.optim.AdamW(
        rest, lr=section.learning_rate, betas=(0.9, 0.98), weight_decay=section.weight_decay, fused=True
    )
    pairs: list[tuple[torch.optim.Optimizer, float]] = [(adamw, section.learning_rate)]
    if matrices:
        muon = torch.optim.Muon(matrices, lr=section.matrix_learning_rate, weight_decay=0.0)
        pairs.append((muon, section.matrix_learning_rate))
    return pairs


def _stage_batches(policy: Policy, recipe: SftRecipe, train: tuple[Problem, ...], fmt: Format) -> Iterator[Sequences]:
    """Yield the batches of stage after stage, on the policy's device."""
    for number, stage in enumerate(recipe.stages):
        seed, done = recipe.run.seed + number, 0
        for batch in batches(
            examples(train, fmt, stage, seed), policy.tokenizer, fmt, recipe.training.batch_tokens, seed
        ):
            yield batch.to(policy.device)
            done += batch.num_tokens
            if done >= stage.tokens:
                break


def _step(
    policy: Policy,
    batch: Sequences,
    optimizers: list[tuple[torch.optim.Optimizer, float]],
    factor: float,
    section: SftOptimizerSection,
) -> float:
    for optimizer, rate in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
    with policy.autocast(), without_cudnn_attention(policy.device):
        loss = completion_loss(policy.model, batch, section.prompt_loss_weight)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), section.max_grad_norm)
    for optimizer, _ in optimizers:
        optimizer.step()
    return loss.item()
