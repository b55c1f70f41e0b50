"""The completions of one prompt, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mathgrpo.models import Policy
from mathgrpo.rollout.native import resting
from mathgrpo.rollout.noise import row_keys, uniforms
from mathgrpo.rollout.sampling import sample_tokens
from mathgrpo.types import Prompt, Sampling


def stream_tokens(policy: Policy, prompt: Prompt, sampling: Sampling) -> Iterator[int]:
    """Yield the tokens of a completion as they are drawn, the end token included; the same that the engine draws."""
    for (token,) in stream_samples(policy, prompt, sampling, 1):
        assert token is not None
        yield token


def stream_samples(
    policy: Policy, prompt: Prompt, sampling: Sampling, samples: int
) -> Iterator[tuple[int | None, ...]]:
    """Yield, position by position, the next token of each of several completions of one prompt; None after its end.

    Sample g's tokens are those the engine draws for sample g. Completions that have ended leave the batch.
    """
    keys = row_keys(sampling.seed, [prompt.key] * samples, range(samples)).to(policy.device)
    rows = list(range(samples))
    ids = torch.tensor([prompt.ids] * samples, device=policy.device)
    sequences, cache = ids, None
    for position in range(sampling.max_new_tokens):
        with resting(policy.model), torch.no_grad(), policy.autocast():
            output = policy.causal_lm(input_ids=ids, past_key_values=cache, use_cache=True)
            draws = uniforms(keys[rows], torch.full_like(keys[rows], position))
            drawn, _ = sample_tokens(output.logits[:, -1], draws, sampling)
        tokens = dict(zip(rows, drawn.tolist(), strict=True))
        yield tuple(tokens.get(row) for row in range(samples))
        alive = [i for i, row in enumerate(rows) if tokens[row] not in policy.eos_ids]
        if not alive:
            return
        sequences = torch.cat((sequences, drawn[:, None]), 1)
        cache = getattr(output, "past_key_values", None)
        if len(alive) < len(rows):
            rows, kept = [rows[i] for i in alive], torch.tensor(alive, device=policy.device)
            sequences, drawn = sequences[kept], drawn[kept]
            if cache is not None:
                cache.batch_select_indices(kept)
        # Without a cache to go on from (recurrent models) the whole sequences are read again.
        ids = sequences if cache is None else drawn[:, None]


class Detokenizer:
    """Tokens of one completion in, the pieces of its text out as they become certain.

    A token may end inside a character; its piece then waits for the rest.

    Attributes:
        tokens: all tokens so far, the end token included.
        ended: whether the last one is an end token.
    """

    def __init__(self, policy: Policy) -> None:
        self._tokenizer: Any = policy.tokenizer
        self._eos_ids = policy.eos_ids
        self._shown = ""
        self.tokens: list[int] = []
        self.ended = False

    def push(self, token: int) -> str:
        """Return what the token adds to the certain text, "" when nothing."""
        self.tokens.append(token)
        self.ended = token in self._eos_ids
        text = self._text()
        if text.endswith("\ufffd") or not text.startswith(self._shown):
            return ""
        piece, self._shown = text[len(self._shown) :], text
        return piece

    def rest(self) -> str:
        """Return what is left at the end."""
        return self._text()[len(self._shown) :]

    def _text(self) -> str:
        ids = self.tokens[:-1] if self.ended else self.tokens
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def stream_text(policy: Policy, prompt: Prompt, sampling: Sampling, tokens: list[int]) -> Iterator[str]:
    """Yield the pieces of a completion's text as they become certain, and collect its tokens in `tokens`."""
    detokenizer = Detokenizer(policy)
    for token in stream_tokens(policy, prompt, sampling):
        tokens.append(token)
        piece = detokenizer.push(token)
        if piece:
            yield piece
    yield detokenizer.rest()
