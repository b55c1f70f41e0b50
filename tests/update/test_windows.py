"""Layers that see a window of their sequence: the shared layout computes what every completion by itself does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fakes import CHARS, SPECIAL, randomised
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.types import Completion, Prompt, RolloutGroup
from mathgrpo.update.pack import objective_of
from mathgrpo.update.step import step_tokens
from update.grpo_cases import largest_difference, make_groups, update

VOCABULARY = len(SPECIAL) + len(CHARS)
MIX = ["sliding_attention", "full_attention"]
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
WINDOW = 12
MODELS: dict[str, dict[str, Any]] = {
    "Mistral": {"sliding_window": WINDOW},
    "Qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "Gemma3Text": {"sliding_window": WINDOW, "layer_types": MIX, "head_dim": 8, "query_pre_attn_scalar": 8},
    "Olmo3": {"sliding_window": WINDOW, "layer_types": MIX},
}


def windowed(name: str, **overrides: Any) -> Any:
    """Return a tiny model of a family with windows."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SHAPE | MODELS.get(name, {}) | overrides))
    return randomised(transformers.AutoModelForCausalLM.from_config(config).float().eval())


def groups_of(*shape: tuple[int, tuple[int, ...]]) -> list[RolloutGroup]:
    """Return groups of (tokens of the prompt, of each completion) with advantages."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(6, VOCABULARY, (count,), generator=generator).tolist())

    return [
        dataclasses.replace(
            make_groups(num_groups=1)[0],
            prompt=Prompt(tokens(prompt), n),
            completions=tuple(Completion(tokens(length), (-1.0,) * length, "eos") for length in lengths),
            texts=("",) * len(lengths), rewards=(0.0,) * len(lengths),
            advantages=tuple(1.0 - 1.5 * i for i in range(len(lengths))),
        )
        for n, (prompt, lengths) in enumerate(shape)
    ]  # fmt: skip


CASES = {
    "below": groups_of((4, (3, 7, 1)), (3, (5, 2))),
    "at": groups_of((6, (6, 7)), (WINDOW, (1, 2, 8)), (2, (WINDOW - 2, WINDOW - 1))),
    "above": groups_of((30, (5, 40, 1)), (WINDOW, (30, 18)), (3, (60, 2)), (WINDOW + 1, (WINDOW, WINDOW + 2))),
}
"""By the longest texts, against the window; its edge in the prompt, where completions begin and in completions."""


def alone(model: Any, groups: list[RolloutGroup]) -> dict[str, torch.Tensor]:
    """Return the gradient of the loss with every completion computed by itself, by model(input_ids) and autograd."""
    model.zero_grad()
    tokens = step_tokens(groups, objective_of(GrpoSection()), False, 9)
    for b, group in enumerate(groups):
        for g, completion in enumerate(group.completions):
            part = slice(tokens.offsets[b][g], tokens.offsets[b][g] + len(completion.ids))
            logits = model(torch.tensor([[*group.prompt.ids, *completion.ids]]), use_cache=False).logits[0]
            logprobs = logits.log_softmax(-1)[len(group.prompt.ids) - 1 : -1]
            chosen = logprobs.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
            # At the policy that sampled, the gradient of the ratio is that of the log-probability.
            loss = -(tokens.weights_M[part] * tokens.advantages_M[part] * chosen).sum()
            loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", CASES)
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_of_completions_alone(name: str, lengths: str) -> None:
    model, groups = windowed(name), CASES[lengths]
    stats, (shared,) = update(model, groups)
    assert stats.layout == "shared" and stats.notes == ()
    expected = alone(model, groups)
    assert largest_difference(shared, expected) < 1e-5
    assert largest_difference(update(model, groups, shared_prompt=False)[1][0], expected) < 1e-5


def test_a_window_changes_the_gradient() -> None:
    model, wide = windowed("Mistral"), windowed("Mistral", sliding_window=None)
    for lengths, differs in (("below", False), ("above", True)):
        (narrow,), (full,) = (update(each, CASES[lengths])[1] for each in (model, wide))
        assert (largest_difference(narrow, full) > 1e-2) == differs


def test_small_micro_batches_and_recomputed_layers_change_nothing() -> None:
    from mathgrpo.update.layer_modes import recomputed_layers

    model, groups = windowed("Gemma3Text"), CASES["above"]
    expected = alone(model, groups)
    with recomputed_layers(model):
        stats, (gradient,) = update(model, groups, token_budget=70)
    assert stats.micro_batches > 2 and largest_difference(gradient, expected) < 1e-5
