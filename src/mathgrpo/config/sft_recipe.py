"""The recipe of a supervised run (`mathgrpo sft`): worked solutions in, a model that follows the format out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mathgrpo.config.recipe import FormatSection, LoraSection, ProblemsSection, RunSection, Section


class NewModelSection(Section):
    """Shape of a Qwen2 model built from scratch, used when model.path is empty."""

    vocab_size: int = Field(2048, ge=300)
    """Size of the byte-level BPE vocabulary trained on the problems."""
    hidden_size: int = Field(192, ge=16)
    intermediate_size: int = Field(512, ge=16)
    num_hidden_layers: int = Field(5, ge=1)
    num_attention_heads: int = Field(6, ge=1)
    num_key_value_heads: int = Field(3, ge=1)
    max_position_embeddings: int = Field(1024, ge=64)


class SftModelSection(Section):
    path: str = ""
    """Model to start from, as in a GRPO recipe; empty: build a new one."""
    new: NewModelSection = NewModelSection()
    lora: LoraSection | None = None
    """Train an adapter instead of all weights (needs model.path)."""


class StageSection(Section):
    """One stage of the curriculum: how many tokens, and what the examples are."""

    tokens: int = Field(1_000_000, ge=1)
    """Tokens to train on, prompts included, padding not."""
    drills: float = Field(0.0, ge=0.0, le=1.0)
    """Share of examples that are bare arithmetic ("Calculate 3*4, 12+5.") instead of problems."""
    guesses_short: float = Field(0.0, ge=0.0, le=1.0)
    """Share of short problems answered by a quick guess instead of worked out."""
    guesses_long: float = Field(0.0, ge=0.0, le=1.0)
    """The same for long problems."""
    short_words: int = Field(35, ge=0)
    """A problem with at most this many words is short."""


class SftOptimizerSection(Section):
    name: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the matrices inside the layers, AdamW for the rest; for new models."""
    learning_rate: float = Field(1e-3, gt=0.0, lt=1.0)
    matrix_learning_rate: float = Field(0.02, gt=0.0, lt=1.0)
    """Learning rate of the matrices under muon."""
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    warmup_ratio: float = Field(0.02, ge=0.0, lt=1.0)
    """Share of all tokens during which the learning rates rise from 0."""
    decay_ratio: float = Field(0.2, ge=0.0, le=1.0)
    """Share of all tokens, at the end, during which they fall to 0 in a straight line."""
    prompt_loss_weight: float = Field(0.0, ge=0.0, le=1.0)
    """Weight of the prompt's tokens in the loss; completion tokens have weight 1."""


class SftTrainingSection(Section):
    batch_tokens: int = Field(8192, ge=64)
    """Tokens in one optimizer step, padding included."""
    log_every: int = Field(20, ge=1)
    """Steps between log lines."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between saved models; 0: only the last."""
    evaluate: bool = True
    """Judge the trained model on the held-out problems."""
    max_new_tokens: int = Field(128, ge=1)
    """Tokens sampled at most in that evaluation."""


class SftRecipe(Section):
    """A whole supervised run."""

    run: RunSection = RunSection()
    model: SftModelSection = SftModelSection()
    problems: ProblemsSection = ProblemsSection()
    format: FormatSection = FormatSection()
    stages: tuple[StageSection, ...] = Field((StageSection(),), min_length=1)
    optimizer: SftOptimizerSection = SftOptimizerSection()
    training: SftTrainingSection = SftTrainingSection()
