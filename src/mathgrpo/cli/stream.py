"""One completion, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mathgrpo.models import Policy
from mathgrpo.rollout.native import resting
from mathgrpo.rollout.noise import row_keys, uniforms
from mathgrpo.rollout.sampling import sample_tokens
from mathgrpo.types import Prompt, Sampling


def stream_tokens(policy: Policy, prompt: Prompt, sampling: Sampling) -> Iterator[int]:
    """Yield the tokens of a completion as they are drawn, the end token included; the same that the engine draws."""
    keys = row_keys(sampling.seed, [prompt.key], [0]).to(policy.device)
    sequence = list(prompt.ids)
    ids, cache = torch.tensor([sequence], device=policy.device), None
    for position in range(sampling.max_new_tokens):
        with resting(policy.model), torch.no_grad(), policy.autocast():
            output = policy.causal_lm(input_ids=ids, past_key_values=cache, use_cache=True)
            token = int(
                sample_tokens(output.logits[:, -1], uniforms(keys, torch.full_like(keys, position)), sampling)[0]
            )
        yield token
        if token in policy.eos_ids:
            return
        sequence.append(token)
        cache = getattr(output, "past_key_values", None)
        # Without a cache to go on from (recurrent models) the whole sequence is read again.
        ids = torch.tensor([sequence if cache is None else [token]], device=policy.device)


def stream_text(policy: Policy, prompt: Prompt, sampling: Sampling, tokens: list[int]) -> Iterator[str]:
    """Yield the pieces of a completion's text as they become certain, and collect its tokens in `tokens`.

    A token may end inside a character; its piece then waits for the rest.
    """
    ids: list[int] = []
    shown = ""
    for token in stream_tokens(policy, prompt, sampling):
        tokens.append(token)
        if token not in policy.eos_ids:
            ids.append(token)
        text = str(policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if not text.endswith("\ufffd") and text.startswith(shown):
            yield text[len(shown) :]
            shown = text
    final = str(policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    yield final[len(shown) :]
