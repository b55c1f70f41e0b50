"""Every family of transformers: rollouts are drawn from the model itself, updates are its own; or it is refused.

Texts are longer than the windows, chunks and switches of the tiny models. Slow, but for the families with windows and
the usual ones.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import tiny_tokenizer
from mathgrpo.errors import UserError
from mathgrpo.models.load_policy import policy_from
from mathgrpo.models.policy import check_context
from mathgrpo.rollout import build_engine
from mathgrpo.types import Prompt, Sampling
from update.architecture_cases import LEFT_OUT, REFUSED, VARIANTS, VOCABULARY, tiny_of
from update.grpo_cases import largest_difference, update
from update.test_windows import alone, groups_of

GROUPS = groups_of((18, (5, 24)), (4, (30, 9)))
NEW_TOKENS = 20
FAST = ("bloom", "cohere2", "deepseek_v3", "exaone4", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_oss", "llama",
        "llama4_text", "mistral", "mixtral", "olmo3", "opt", "phi3", "qwen3", "rwkv", "starcoder2")  # fmt: skip


def kinds() -> list[str]:
    """Return the kinds of transformers' causal language models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return [str(kind) for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]


def cases() -> list[Any]:
    """Return (kind, settings) of every model that is tried."""
    made = [(kind, (kind, {})) for kind in kinds() if kind not in LEFT_OUT] + list(VARIANTS.items())
    fast = (*FAST, *VARIANTS)
    return [pytest.param(*of, id=name, marks=() if name in fast else pytest.mark.slow) for name, of in made]


@pytest.mark.parametrize(("kind", "settings"), cases())
def test_a_family_is_served_as_it_is_or_refused(kind: str, settings: dict[str, Any]) -> None:
    model = tiny_of(kind, settings)
    if kind in REFUSED:
        with pytest.raises(UserError, match=REFUSED[kind]):
            served(model)
        return
    drawn, learnt = served(model)
    assert drawn < 1e-4 and learnt < 1e-5


AT_THE_LIMIT = [("gpt2", {"max_position_embeddings": 20}), ("gpt_neo", {"max_position_embeddings": 20}),
                ("mpt", {"max_seq_len": 20}), ("openai-gpt", {"max_position_embeddings": 20})]  # fmt: skip


@pytest.mark.parametrize(("kind", "limit"), AT_THE_LIMIT)
def test_texts_may_reach_the_last_position(kind: str, limit: dict[str, Any]) -> None:
    """Rows are padded to few widths, 32 here, but never beyond what the model has."""
    model, groups = tiny_of(kind, limit), groups_of((10, (10, 4)))
    policy = policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")
    assert policy.max_context == 20
    for shared in (True, False):
        _, (gradient,) = update(model, groups, shared_prompt=shared)
        assert largest_difference(gradient, alone(model, groups)) < 1e-5
    with pytest.raises(UserError, match=r"max_new_tokens=11: with a prompt of 10 tokens it exceeds the 20 tokens"):
        check_context(policy, [groups[0].prompt], Sampling(11))


def test_nothing_is_left_out_for_ever() -> None:
    """A kind that transformers has no longer, or that is tried all the same, goes from the tables."""
    assert set(LEFT_OUT).isdisjoint(REFUSED) and set(LEFT_OUT).isdisjoint(FAST)
    assert {*LEFT_OUT, *REFUSED, *FAST} <= set(kinds())


def served(model: Any) -> tuple[float, float]:
    """Return how far rollout log-probabilities and the update's gradient are from the model's own forward pass."""
    policy = policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")
    engine = build_engine(policy, longest=max(len(prompt.ids) for prompt in prompts()) + NEW_TOKENS)
    worst = 0.0
    for prompt, group in zip(prompts(), engine.generate(prompts(), 2, Sampling(NEW_TOKENS, seed=1)), strict=True):
        for completion in group:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt.ids, *completion.ids]]), use_cache=False).logits[0]
            logprobs = logits.float().log_softmax(-1)[len(prompt.ids) - 1 : -1]
            expected = logprobs.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
            worst = max(worst, float((torch.tensor(completion.logprobs) - expected).abs().max()))
    check_context(policy, [group.prompt for group in GROUPS], Sampling(30))
    _, (gradient,) = update(model, GROUPS)
    expected_gradient = alone(model, GROUPS)
    return worst, largest_difference({name: gradient[name] for name in expected_gradient}, expected_gradient)


def prompts() -> list[Prompt]:
    """Return prompts below and above the window."""
    generator = torch.Generator().manual_seed(3)
    drawn = (torch.randint(6, VOCABULARY, (length,), generator=generator).tolist() for length in (5, 23))
    return [Prompt(tuple(ids), number) for number, ids in enumerate(drawn)]
