"""Supervised training steps: the stages' batches, the loss on completions, the two optimizers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.config.sft_recipe import SftOptimizerSection, SftRecipe, StageSection
from mathgrpo.formats import Format
from mathgrpo.formats.chat import has_template, put
from mathgrpo.formats.rendering import plain_ids
from mathgrpo.formats.thinking import behind
from mathgrpo.models import Policy
from mathgrpo.types import Problem
from mathgrpo.update.decoder_and_head import split_model


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
    with policy.autocast():
        loss = completion_loss(policy.model, batch, section.prompt_loss_weight)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), section.max_grad_norm)
    for optimizer, _ in optimizers:
        optimizer.step()
    return loss.item()


_POOL = 4096
_MULTIPLE = 8
"""Batch widths are rounded up to this, so that a CPU meets few shapes (it keeps a compiled primitive for each)."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """One batch, right-padded. N sequences of T tokens.

    Attributes:
        ids_NT: token ids.
        lengths_N: tokens of each sequence, padding not counted.
        prompt_lengths_N: how many of them are prompt.
    """

    ids_NT: Tensor
    lengths_N: Tensor
    prompt_lengths_N: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.lengths_N.sum())

    def to(self, device: str) -> Sequences:
        """Return the batch on a device."""
        return Sequences(self.ids_NT.to(device), self.lengths_N.to(device), self.prompt_lengths_N.to(device))


def batches(
    source: Iterator[Example], tokenizer: Any, fmt: Format, batch_tokens: int, seed: int
) -> Iterator[Sequences]:
    """Yield batches without end. Examples are sorted by length within pools, so little is padding."""
    rng = Random(seed)
    while True:
        rows = sorted(encode(list(islice(source, _POOL)), tokenizer, fmt), key=lambda row: len(row[0]) + len(row[1]))
        pool = list(_cut(rows, batch_tokens))
        rng.shuffle(pool)
        for batch in pool:
            yield collate(batch, tokenizer.pad_token_id)


def encode(examples: Sequence[Example], tokenizer: Any, fmt: Format) -> list[tuple[list[int], list[int]]]:
    """Return (prompt ids, completion ids with the end token) for each example."""
    asked = [put(tokenizer, Problem(example.question, ""), fmt) for example in examples]
    written = [behind(shown.opened, example.completion) for shown, example in zip(asked, examples, strict=True)]
    completions = tokenizer(written, add_special_tokens=False)["input_ids"]
    if has_template(tokenizer):
        prompts = tokenizer([shown.text for shown in asked], add_special_tokens=False)["input_ids"]
    else:
        prompts = [plain_ids(tokenizer, shown.text) for shown in asked]
    ends = [tokenizer.eos_token_id]
    return [(p, c + ends) for p, c in zip(prompts, completions, strict=True)]


def _cut(rows: Sequence[tuple[list[int], list[int]]], batch_tokens: int) -> Iterator[list[tuple[list[int], list[int]]]]:
    batch: list[tuple[list[int], list[int]]] = []
    for row in rows:
        width = len(row[0]) + len(row[1])
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def collate(rows: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Sequences:
    """Return rows as one right-padded batch."""
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    width = -(-max(lengths) // _MULTIPLE) * _MULTIPLE
    ids = torch.full((len(rows), width), pad_id)
    for i, (prompt, completion) in enumerate(rows):
        ids[i, : lengths[i]] = torch.tensor(prompt + completion)
    return Sequences(ids, torch.tensor(lengths), torch.tensor([len(prompt) for prompt, _ in rows]))


def loss_weights(batch: Sequences, prompt_weight: float) -> Tensor:
    """Return how much predicting token t+1 at position t counts: 1 in the completion, prompt_weight before, 0 after.

    Shapes: [N, T - 1].
    """
    target = torch.arange(1, batch.ids_NT.shape[1], device=batch.ids_NT.device)
    inside = target < batch.lengths_N[:, None]
    completion = target >= batch.prompt_lengths_N[:, None]
    return torch.where(completion, 1.0, prompt_weight) * inside


GUESS = "A quick guess."
"""The reasoning of an example that answers without working."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the completion to learn for it."""

    question: str
    completion: str


def examples(problems: Sequence[Problem], fmt: Format, stage: StageSection, seed: int) -> Iterator[Example]:
    """Yield training examples without end: the problems in a new order each epoch, drills strewn in.

    Problems without a worked solution are skipped; the caller checks that some have one.
    """
    rng = Random(seed)
    solved = [problem for problem in problems if problem.solution]
    pool = drill_pool(solved)
    while True:
        for problem in rng.sample(solved, len(solved)):
            while pool and rng.random() < stage.drills:
                yield worked(drill(pool, rng), fmt)
            yield guessed(problem, fmt) if rng.random() < guess_share(problem, stage) else worked(problem, fmt)


def guess_share(problem: Problem, stage: StageSection) -> float:
    """Return the chance that this problem is answered by a quick guess: people skip the working of what looks short."""
    return stage.guesses_short if len(problem.question.split()) <= stage.short_words else stage.guesses_long


def worked(problem: Problem, fmt: Format) -> Example:
    """Return the problem with its worked solution."""
    return Example(problem.question, fmt.write(problem.solution or "", problem.answer))


def guessed(problem: Problem, fmt: Format) -> Example:
    """Return the problem answered at once. The answer is the gold one; no small model can learn to guess it."""
    return Example(problem.question, fmt.write(GUESS, problem.answer))


def drill_pool(problems: Sequence[Problem]) -> tuple[str, ...]:
    """Return the arithmetic lines ("3*4=12") of the problems' solutions, repeats kept as weights."""
    lines = (line for problem in problems[:20_000] for line in (problem.solution or "").splitlines())
    return tuple(line for line in lines if line.count("=") == 1 and line[:1].isdigit())


def drill(pool: Sequence[str], rng: Random) -> Problem:
    """Return a problem of three to eight unrelated calculations; its answer is the last one's result."""
    lines = [rng.choice(pool) for _ in range(rng.randint(3, 8))]
    tasks = ", ".join(line.split("=")[0] for line in lines)
    return Problem(question=f"Calculate {tasks}.", answer=lines[-1].split("=")[1], solution="\n".join(lines))
