from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.update import logprobs as logprobs_module
from mathgrpo.update.attention.packed import packed_attention
from mathgrpo.update.decoder_and_head import split_model
from mathgrpo.update.first_pass import chunked_logprobs
from mathgrpo.update.forward import ModuleForward
from mathgrpo.update.pack import Piece, build_micro_batch, objective_of
from mathgrpo.update.step import step_tokens
from update.grpo_cases import MAX_NEW_TOKENS, lora_model, make_groups

ARCHITECTURES = ["qwen2", "qwen3", "llama", "gpt2"]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_equal_the_plain_softmax(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    monkeypatch.setattr(logprobs_module, "CHUNK_ELEMENTS", {"cpu": 1})
    monkeypatch.setattr(logprobs_module, "MIN_CHUNK", 5)
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11)
    hidden = torch.randn(12, 6, requires_grad=True)
    targets, weight = torch.randint(0, 11, (12,)), torch.randn(12)
    ours, entropy = chunked_logprobs(hidden, targets, head, temperature)
    gradients = torch.autograd.grad((ours * weight).sum(), [hidden, *head.parameters()])
    plain = (head(hidden) / temperature).log_softmax(-1)
    expected = plain.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1))
    assert not entropy.requires_grad
    for a, b in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), [hidden, *head.parameters()]), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_the_head_never_sees_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs_module, "CHUNK_ELEMENTS", {"cpu": 11 * 4})
    monkeypatch.setattr(logprobs_module, "MIN_CHUNK", 1)
    head = torch.nn.Linear(6, 11)
    rows: list[int] = []
    head.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    hidden = torch.randn(18, 6, requires_grad=True)
    chunked_logprobs(hidden, torch.zeros(18, dtype=torch.long), head, 1.0)[0].sum().backward()
    assert max(rows) == 4
    # One row to learn the vocabulary's size; then every row once.
    assert sum(rows) == 1 + 18


@pytest.mark.parametrize("shared_prompt", [True, False])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "lora", "lora_head"])
def test_packed_logprobs_equal_one_sequence_at_a_time(architecture: str, shared_prompt: bool) -> None:
    if architecture.startswith("lora"):
        model = lora_model(lm_head=architecture == "lora_head")
    else:
        model = tiny_model(architecture)
    groups = make_groups()
    tokens = step_tokens(groups, objective_of(GrpoSection()), False, MAX_NEW_TOKENS)
    pieces = [Piece(b, (0, 1, 2, 3)) for b in range(3)]
    batch = build_micro_batch(groups, tokens.offsets, pieces, shared_prompt=shared_prompt)
    config = split_model(model)[0].config
    before, forward = config._attn_implementation, ModuleForward(model, nullcontext)
    with torch.no_grad():
        if shared_prompt:
            with packed_attention(config):
                hidden = forward.hidden(batch)
        else:
            hidden = forward.hidden(batch)
        ours, entropy = chunked_logprobs(hidden, batch.targets, forward.head, 0.9)
    ours, entropy = ours[: len(batch.token_index)], entropy[: len(batch.token_index)]
    assert config._attn_implementation == before
    expected, expected_entropy = [], []
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt.ids, *completion.ids]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(group.prompt.ids) - 1 : -1] / 0.9
            plain = logits.log_softmax(-1)
            expected.append(plain.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0])
            expected_entropy.append(-(plain.exp() * plain).sum(-1))
    torch.testing.assert_close(ours, torch.cat(expected), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, torch.cat(expected_entropy), atol=2e-5, rtol=1e-5)
    assert len(ours) == len(tokens.weights_M)
