"""The completions of one prompt, token by token, as the training engine draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mathgrpo.hardware.cudnn import without_cudnn_attention
from mathgrpo.models import Policy
from mathgrpo.rollout import build_decoder
from mathgrpo.rollout.decoder import Decoder, SamplingSession, Session
from mathgrpo.rollout.noise import row_keys, uniforms
from mathgrpo.rollout.sampling import sample_tokens
from mathgrpo.types import Prompt, Sampling

PLAIN = "the model's own forward pass"


class Streamer:
    """Draws from a policy whose weights no longer change; the model is in eval mode from here on.

    native=False leaves the rollout decoders out: every token then comes from the model's own forward pass, which also
    serves where no decoder does. The decoders need memory for a second copy of the matrices.

    Attributes:
        policy: what is drawn from.
        reason: how it decodes; one line.
    """

    def __init__(self, policy: Policy, *, native: bool = True) -> None:
        policy.model.eval()
        self.policy = policy
        self._decoder, obstacle = build_decoder(policy, frozen=True) if native else (None, "asked for")
        self.reason = obstacle if self._decoder is not None else "; ".join(filter(None, (PLAIN, obstacle)))

    def samples(self, prompt: Prompt, sampling: Sampling, count: int) -> Iterator[tuple[int | None, ...]]:
        """Yield, position by position, the next token of each of `count` completions of a prompt; None after its end.

        Sample g's tokens are those the engine draws for sample g. Completions that have ended leave the batch.
        """
        policy, rows = self.policy, list(range(count))
        keys = row_keys(sampling.seed, [prompt.key] * count, rows).to(policy.device)
        batch = self._batch(prompt, sampling, count)
        for position in range(sampling.max_new_tokens):
            tokens = dict(zip(rows, batch.draw(keys, position), strict=True))
            yield tuple(tokens.get(row) for row in range(count))
            alive = [i for i, row in enumerate(rows) if tokens[row] not in policy.eos_ids]
            if not alive:
                return
            if len(alive) < len(rows):
                rows, keys = [rows[i] for i in alive], keys[alive]
                batch.keep(alive)

    def text(self, prompt: Prompt, sampling: Sampling, tokens: list[int]) -> Iterator[str]:
        """Yield the pieces of a completion's text as they become certain, and collect its tokens in `tokens`."""
        detokenizer = Detokenizer(self.policy)
        for (token,) in self.samples(prompt, sampling, 1):
            assert token is not None
            tokens.append(token)
            piece = detokenizer.push(token)
            if piece:
                yield piece
        yield detokenizer.rest()

    def _batch(self, prompt: Prompt, sampling: Sampling, count: int) -> _Batch:
        if self._decoder is None:
            return _PlainBatch(self.policy, prompt, sampling, count)
        return _DecoderBatch(self._decoder, self.policy, prompt, sampling, count)


class _Batch(Protocol):
    """Completions of one prompt that go on together."""

    def draw(self, keys: Tensor, position: int) -> list[int]:
        """Return the next token of every row, which is the row's token at this position. keys: int64[rows]."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in ascending order."""
        ...


class _DecoderBatch:
    """Rows of one session of a rollout decoder.

    Its context is entered anew for every token: between two of them a generator's caller runs, which must not find
    itself in inference mode.
    """

    def __init__(self, decoder: Decoder, policy: Policy, prompt: Prompt, sampling: Sampling, count: int) -> None:
        self._context, self._sampling = decoder.context, sampling
        self._ends = torch.tensor(policy.eos_ids, dtype=torch.int64, device=policy.device)
        with decoder.context():
            positions = len(prompt.ids) + sampling.max_new_tokens
            self._session: Session = decoder.open(max_rows=count, positions=positions)
            self._first: Tensor | None = self._session.prefill({0: prompt.ids}).expand(count, -1)
            self._session.admit([0] * count)
        session, whole = self._session, (sampling.top_k, sampling.top_p, sampling.min_p) == (0, 1.0, 0.0)
        self._sampler = session if isinstance(session, SamplingSession) and whole else None
        self._tokens = torch.zeros(count, dtype=torch.int64, device=policy.device)

    def draw(self, keys: Tensor, position: int) -> list[int]:
        """Return the next token of every row."""
        with self._context():
            self._tokens = self._drawn(keys, torch.full_like(keys, position))
            drawn: list[int] = self._tokens.tolist()
        return drawn

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows."""
        with self._context():
            self._session.keep(rows)
            self._tokens = self._tokens[list(rows)]

    def _drawn(self, keys: Tensor, positions: Tensor) -> Tensor:
        if self._first is None and self._sampler is not None:
            temperatures = torch.full((len(keys),), self._sampling.temperature, dtype=torch.float64)
            return self._sampler.advance(self._tokens, keys, positions, temperatures, steps=1, ends=self._ends)[0][:, 0]
        logits, self._first = self._session.step(self._tokens) if self._first is None else self._first, None
        return sample_tokens(logits, uniforms(keys, positions), self._sampling)[0]


class _PlainBatch:
    """Rows that the model itself decodes, whatever its architecture; their prompt is read once."""

    def __init__(self, policy: Policy, prompt: Prompt, sampling: Sampling, count: int) -> None:
        self._policy, self._sampling = policy, sampling
        self._cache: Any = None
        self._sequences = torch.tensor([prompt.ids] * count, device=policy.device)
        self._ids = self._sequences[:1]

    def draw(self, keys: Tensor, position: int) -> list[int]:
        """Return the next token of every row."""
        with torch.no_grad(), self._policy.autocast(), without_cudnn_attention(self._policy.device):
            output = self._policy.causal_lm(input_ids=self._ids, past_key_values=self._cache, use_cache=True)
            draws = uniforms(keys, torch.full_like(keys, position))
            tokens, _ = sample_tokens(output.logits[:, -1].expand(len(keys), -1), draws, self._sampling)
        self._sequences = torch.cat((self._sequences, tokens[:, None]), 1)
        self._cache = getattr(output, "past_key_values", None)
        if self._cache is not None and position == 0 and len(keys) > 1:
            self._cache.batch_repeat_interleave(len(keys))
        # Without a cache to go on from (recurrent models) the whole sequences are read again.
        self._ids = self._sequences if self._cache is None else tokens[:, None]
        drawn: list[int] = tokens.tolist()
        return drawn

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows."""
        kept = torch.tensor(rows, device=self._policy.device)
        self._sequences, self._ids = self._sequences[kept], self._ids[kept]
        if self._cache is not None:
            self._cache.batch_select_indices(kept)


class Detokenizer:
    """Tokens of one completion in, the pieces of its text out as they become certain.

    A token may end inside a character; its piece then waits for the rest. Only the last tokens are decoded, those of
    the piece before included: what a decoder does at the beginning of a text (drop a space) it does then to both.

    Attributes:
        tokens: all tokens so far, the end token included.
        ended: whether the last one is an end token.
    """

    def __init__(self, policy: Policy) -> None:
        self._tokenizer: Any = policy.tokenizer
        self._eos_ids = policy.eos_ids
        self._before, self._shown = 0, 0  # where the last piece's tokens begin and end
        self.tokens: list[int] = []
        self.ended = False

    def push(self, token: int) -> str:
        """Return what the token adds to the certain text, "" when nothing."""
        self.tokens.append(token)
        self.ended = token in self._eos_ids
        shown, text = self._texts()
        if text.endswith("\ufffd") or not text.startswith(shown) or text == shown:
            return ""
        self._before, self._shown = self._shown, len(self.tokens) - self.ended
        return text[len(shown) :]

    def rest(self) -> str:
        """Return what is left at the end."""
        shown, text = self._texts()
        return text[len(shown) :]

    def _texts(self) -> tuple[str, str]:
        """Return the text of the last piece, and the same text with what is not shown yet."""
        end = len(self.tokens) - self.ended
        return self._text(self.tokens[self._before : self._shown]), self._text(self.tokens[self._before : end])

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
