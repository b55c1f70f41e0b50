"""The supervised run: examples from the stages of a recipe, next-token loss on the completions, a saved model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.config.sft_recipe import SftOptimizerSection, SftRecipe, StageSection
from mathgrpo.errors import UserError
from mathgrpo.formats import Format, get_format
from mathgrpo.problems import load_problem_sets
from mathgrpo.training.mixture import GUESS, examples
from mathgrpo.training.muon import Muon
from mathgrpo.training.new_model import build_model, train_tokenizer, whole_words
from mathgrpo.training.sft_batches import Sequences, batches, loss_weights
from mathgrpo.types import Problem


@dataclass(frozen=True, slots=True)
class Learner:
    """What a supervised run trains."""

    model: Any
    tokenizer: Any


def run_sft(recipe: SftRecipe, recipe_name: str) -> Path:
    """Train on worked solutions and return the run folder; its last checkpoint loads with from_pretrained.

    Raises:
        UserError: no problem has a worked solution, or the run folder exists already.
    """
    fmt = get_format(recipe.format.name)
    train = load_problem_sets(recipe.problems).train
    if not any(problem.solution for problem in train):
        raise UserError(f"problems.source={recipe.problems.source}: no row has a worked solution; name its column with problems.solution_column")
    folder = Path(recipe.run.output_dir) / (recipe.run.name or recipe_name)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"run.name={folder.name}: {folder} exists and is not empty; choose another with --set run.name=NAME")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.run.seed)
    learner = _learner(recipe, train, fmt)
    step = 0
    with (folder / "metrics.jsonl").open("a") as log:
        for line in _steps(learner, recipe, train, fmt, folder):
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(f"step {line['step']}  tokens {line['tokens']:,}  loss {line['loss']:.4f}  {line['tokens_per_s']:,.0f} tok/s", flush=True)
            step = line["step"]
    _save(learner, folder / "checkpoints" / f"step-{step}")
    return folder


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
    hidden_NTD = model.base_model(input_ids=batch.ids_NT, use_cache=False).last_hidden_state[:, :-1]
    chosen = weights > 0
    logits = model.get_output_embeddings()(hidden_NTD[chosen]).float()
    losses = F.cross_entropy(logits, batch.ids_NT[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum()


def _learner(recipe: SftRecipe, train: tuple[Problem, ...], fmt: Format) -> Learner:
    if recipe.model.path:
        from mathgrpo.config.recipe import ModelSection
        from mathgrpo.models import load_policy, resolve_device

        section = ModelSection(path=recipe.model.path, lora=recipe.model.lora)
        policy = load_policy(section, resolve_device(recipe.run.device), train=True)
        return Learner(policy.model, policy.tokenizer)
    texts = [text for problem in train[:50_000] for text in (problem.question, problem.solution or "", GUESS)]
    tokenizer = train_tokenizer(texts, whole_words(fmt), recipe.model.new.vocab_size)
    return Learner(build_model(recipe.model.new, tokenizer, recipe.run.seed), tokenizer)


def _optimizers(model: Any, section: SftOptimizerSection) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return (optimizer, full learning rate) pairs that together own every trainable parameter once."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trainable if section.name == "muon" and p.ndim == 2 and ".layers." in name]
    owned = {id(p) for p in matrices}
    rest = [p for _, p in trainable if id(p) not in owned]
    adamw = torch.optim.AdamW(rest, lr=section.learning_rate, betas=(0.9, 0.98), weight_decay=section.weight_decay, fused=True)
    pairs: list[tuple[torch.optim.Optimizer, float]] = [(adamw, section.learning_rate)]
    if matrices:
        pairs.append((Muon(matrices, lr=section.matrix_learning_rate), section.matrix_learning_rate))
    return pairs


def _steps(learner: Learner, recipe: SftRecipe, train: tuple[Problem, ...], fmt: Format, folder: Path) -> Iterator[dict[str, Any]]:
    """Train through every stage, yielding a metrics line every log_every steps."""
    optimizers = _optimizers(learner.model, recipe.optimizer)
    total, done, step, losses = sum(stage.tokens for stage in recipe.stages), 0, 0, []
    learner.model.train()
    started, logged = time.perf_counter(), 0
    for batch in _staged(learner, recipe, train, fmt):
        factor = learning_rate_factor(done, total, recipe.optimizer)
        losses.append(_step(learner.model, batch, optimizers, factor, recipe.optimizer))
        done, step = done + batch.num_tokens, step + 1
        if step % recipe.training.log_every == 0 or done >= total:
            now = time.perf_counter()
            yield {"step": step, "tokens": done, "loss": sum(losses) / len(losses), "learning_rate_factor": factor,
                   "tokens_per_s": (done - logged) / (now - started)}
            started, logged, losses = now, done, []
        if recipe.training.checkpoint_every and step % recipe.training.checkpoint_every == 0:
            _save(learner, folder / "checkpoints" / f"step-{step}")


def _staged(learner: Learner, recipe: SftRecipe, train: tuple[Problem, ...], fmt: Format) -> Iterator[Sequences]:
    for number, stage in enumerate(recipe.stages):
        done = 0
        for batch in _stage_batches(learner, recipe, stage, train, fmt, recipe.run.seed + number):
            yield batch
            done += batch.num_tokens
            if done >= stage.tokens:
                break


def _stage_batches(learner: Learner, recipe: SftRecipe, stage: StageSection, train: tuple[Problem, ...], fmt: Format, seed: int) -> Iterator[Sequences]:
    return batches(examples(train, fmt, stage, seed), learner.tokenizer, fmt, recipe.training.batch_tokens, seed)


def _step(model: Any, batch: Sequences, optimizers: list[tuple[torch.optim.Optimizer, float]], factor: float, section: SftOptimizerSection) -> float:
    for optimizer, rate in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
    loss = completion_loss(model, batch, section.prompt_loss_weight)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), section.max_grad_norm)
    for optimizer, _ in optimizers:
        optimizer.step()
    return loss.item()


def _save(learner: Learner, folder: Path) -> None:
    learner.model.save_pretrained(folder)
    learner.tokenizer.save_pretrained(folder)
