"""The native engine: samples from the trainer's own weights, many rows at a time, none of them idle.

Rows (one for each completion) wait in order, prompt by prompt. As many as fit are decoded together; a finished row
leaves the batch at once and a waiting one takes its place. Draws are keyed by problem, sample and position, so none
of this changes what is sampled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from mathgrpo.hardware.cudnn import without_cudnn_attention
from mathgrpo.models import Policy
from mathgrpo.models.policy import resting
from mathgrpo.rollout.context import check_context
from mathgrpo.rollout.decoder import Decoder, SamplingSession, Session
from mathgrpo.rollout.noise import row_keys, uniforms
from mathgrpo.rollout.sampling import sample_tokens
from mathgrpo.types import Completion, Prompt, Sampling

_CUDA_POLL_STEPS = 8
"""Steps between looks at the finished flags on CUDA, where each look waits for the device."""

_MOST_STEPS = 64
"""Steps that a session which samples itself makes in one call, at most: an interrupt waits no longer than that."""


class NativeEngine:
    """An `Engine` on a `Decoder`."""

    name = "native"

    def __init__(self, policy: Policy, decoder: Decoder, *, max_rows: int = 0, reason: str = "") -> None:
        self._policy, self._decoder, self._max_rows = policy, decoder, max_rows
        self.reason = reason

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt, in order; result[i][g] is sample g of prompts[i]."""
        if not prompts:
            return []
        check_context(self._policy, prompts, sampling)
        num_rows = len(prompts) * group_size
        slots = min(self._max_rows or num_rows, num_rows)
        unplanned = without_cudnn_attention(self._policy.device)
        with resting(self._policy.model), self._decoder.context(), unplanned:
            session = self._decoder.open(
                [p.ids for p in prompts], max_new_tokens=sampling.max_new_tokens, max_rows=slots
            )
            rollout = _Rollout(self._policy, session, prompts, group_size, sampling, slots)
            rollout.run()
            completions = rollout.completions()
        return [completions[i : i + group_size] for i in range(0, num_rows, group_size)]


class _Rollout:
    """One generate call: the rows in the batch, the rows that wait, what has been sampled."""

    def __init__(
        self,
        policy: Policy,
        session: Session,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        slots: int,
    ) -> None:
        self._session, self._sampling, self._slots, self._group_size = session, sampling, slots, group_size
        self._sampler = session if isinstance(session, SamplingSession) and session.samples(sampling) else None
        self._eos_ids = policy.eos_ids
        device = torch.device(policy.device)
        num_rows = len(prompts) * group_size
        samples = [g for _ in prompts for g in range(group_size)]
        keys = [p.key for p in prompts for _ in range(group_size)]
        self._keys = row_keys(sampling.seed, keys, samples).to(device)
        self._eos = torch.tensor(policy.eos_ids, dtype=torch.int64, device=device)
        self._ids = torch.full((num_rows, sampling.max_new_tokens), -1, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(num_rows, sampling.max_new_tokens, device=device)
        self._waiting = deque(range(num_rows))
        self._prompt_logits: dict[int, Tensor] = {}
        self._poll_steps = _CUDA_POLL_STEPS if device.type == "cuda" else 1

        self._rows: list[int] = []
        self._ages: list[int] = []
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        self._row_index, self._age, self._tokens, self._row_keys = nothing, nothing, nothing, nothing
        self._done = torch.zeros(0, dtype=torch.bool, device=device)

    def run(self) -> None:
        """Sample every row to its end."""
        steps = 0
        while self._waiting or self._rows:
            if self._may_admit():
                self._admit()
                self._drop_finished()
                continue
            if self._sampler is not None:
                self._advance(self._sampler)
                self._drop_finished()
                continue
            logits = self._session.step(self._tokens)
            self._record(logits, first=0)
            steps += 1
            if steps % self._poll_steps == 0 or max(self._ages) >= self._sampling.max_new_tokens:
                self._drop_finished()

    def _may_admit(self) -> bool:
        """Whether enough slots are free to be worth a prefill: all, or an eighth."""
        free = self._slots - len(self._rows)
        return bool(self._waiting) and (not self._rows or free >= min(len(self._waiting), -(-self._slots // 8)))

    def _admit(self) -> None:
        """Fill the free slots with waiting rows and sample their first tokens from their prompts' logits."""
        free = min(self._slots - len(self._rows), len(self._waiting))
        rows = [self._waiting.popleft() for _ in range(free)]
        prompts = [row // self._group_size for row in rows]
        new = [p for p in dict.fromkeys(prompts) if p not in self._prompt_logits]
        if new:
            self._prompt_logits.update(zip(new, self._session.prefill(new).unbind(0), strict=True))
        self._session.admit(prompts)
        logits = torch.stack([self._prompt_logits[p] for p in prompts])
        for prompt in dict.fromkeys(prompts):
            if not self._waiting or self._waiting[0] // self._group_size > prompt:
                del self._prompt_logits[prompt]
                self._session.release(prompt)
        self._append(rows)
        self._record(logits, first=len(self._rows) - len(rows))

    def _append(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self._row_index.device)
        zeros = torch.zeros_like(index)
        self._rows += rows
        self._ages += [0] * len(rows)
        self._row_index = torch.cat((self._row_index, index))
        self._row_keys = torch.cat((self._row_keys, self._keys.index_select(0, index)))
        self._age, self._tokens = torch.cat((self._age, zeros)), torch.cat((self._tokens, zeros))
        self._done = torch.cat((self._done, zeros.bool()))

    def _record(self, logits: Tensor, *, first: int) -> None:
        """Sample one token for the rows from `first` on and note it."""
        age, index = self._age[first:], self._row_index[first:]
        draws = uniforms(self._row_keys[first:], age)
        tokens, logprobs = sample_tokens(logits, draws, self._sampling)
        self._ids[index, age] = tokens
        self._logprobs[index, age] = logprobs
        ended = (tokens[:, None] == self._eos).any(1)
        if first:
            self._tokens = torch.cat((self._tokens[:first], tokens))
            self._done = torch.cat((self._done[:first], ended))
            self._age = torch.cat((self._age[:first], age + 1))
        else:
            self._tokens, self._done, self._age = tokens, self._done | ended, age + 1
        self._ages[first:] = [a + 1 for a in self._ages[first:]]

    def _advance(self, session: SamplingSession) -> None:
        """Let the session sample tokens until a row ends, and note them."""
        ids, logprobs = session.advance(
            self._tokens,
            self._row_keys,
            self._age,
            steps=min(self._sampling.max_new_tokens - max(self._ages), _MOST_STEPS),
            ends=self._eos,
            sampling=self._sampling,
        )
        steps = ids.shape[1]
        index = self._row_index[:, None]
        columns = self._age[:, None] + torch.arange(steps, device=ids.device)
        self._ids[index, columns] = ids
        self._logprobs[index, columns] = logprobs
        self._tokens, self._age = ids[:, -1], self._age + steps
        self._done = (self._tokens[:, None] == self._eos).any(1)
        self._ages = [age + steps for age in self._ages]

    def _drop_finished(self) -> None:
        """Take finished rows out of the batch; the last rows move into their places."""
        limit = self._sampling.max_new_tokens
        done = self._done.tolist()
        alive = [i for i, age in enumerate(self._ages) if not done[i] and age < limit]
        if len(alive) == len(self._rows):
            return
        order = _close_gaps(alive)
        index = torch.tensor(order, dtype=torch.int64, device=self._row_index.device)
        self._rows, self._ages = [self._rows[i] for i in order], [self._ages[i] for i in order]
        self._row_index, self._row_keys = self._row_index[index], self._row_keys[index]
        self._age, self._tokens, self._done = self._age[index], self._tokens[index], self._done[index]
        self._session.keep(order)

    def completions(self) -> list[Completion]:
        """Return what was sampled, cut after the first end token, in row order."""
        ends = set(self._eos_ids)
        return [
            completion_until_end(ids, logprobs, ends)
            for ids, logprobs in zip(self._ids.tolist(), self._logprobs.tolist(), strict=True)
        ]


def _close_gaps(alive: list[int]) -> list[int]:
    """Return the alive rows reordered so that row i stays where it can, and gaps are filled from the end.

    Example:
        >>> _close_gaps([0, 2, 3, 5])
        [0, 5, 2, 3]
    """
    count = len(alive)
    tail = [i for i in alive if i >= count]
    staying = set(alive)
    return [i if i in staying else tail.pop() for i in range(count)]


def completion_until_end(ids: list[int], logprobs: list[float], ends: set[int]) -> Completion:
    """Return the completion that a row of sampled ids is: everything up to its first end token."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
    length = stop if stop is not None else len(ids)
    return Completion(tuple(ids[:length]), tuple(logprobs[:length]), "length" if stop is None else "eos")
