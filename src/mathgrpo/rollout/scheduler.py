"""The one scheduler of rows: completions come and go while others are decoded, and none of them idles.

Rows wait in order. As many as fit are decoded together; a finished row leaves the batch at once and a waiting one
takes its place. Draws are keyed by problem, sample and position, so none of this changes what is sampled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mathgrpo.models import Policy
from mathgrpo.models.policy import check_context
from mathgrpo.rollout.decoder import Decoder, SamplingSession, Session
from mathgrpo.rollout.sampling import row_keys, sample_tokens, uniforms
from mathgrpo.types import FinishReason, Prompt, Sampling

_CUDA_POLL_STEPS = 8
"""Steps between looks at what was sampled on CUDA, where each look waits for the device."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a row was given in one step.

    Attributes:
        ticket: the row.
        ids, logprobs: its new tokens, and their log-probabilities as in `Completion`.
        finish_reason: why the row has ended with them; None while it goes on.
    """

    ticket: int
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None


@dataclass(eq=False, slots=True)
class _Group:
    """Rows of one prompt, whose keys and values they share: those that wait, those in the batch."""

    ids: Sequence[int]
    waiting: int
    active: int = 0
    number: int = -1
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(eq=False, slots=True)
class _Row:
    """A completion; `kind` is its sampling without what is its own (seed, length), one object for all equal ones."""

    ticket: int
    group: _Group
    key: int
    limit: int
    kind: Sampling
    age: int = 0
    last: int = 0

    @property
    def positions(self) -> int:
        return len(self.group.ids) + self.limit


class Rows:
    """Completions in flight on a `Decoder`, each with its own sampling; new ones are admitted while others run.

    `submit` puts rows into the queue, `step` moves all rows of the batch on and says what was drawn, `cancel` takes a
    row out. A row's tokens are those that `Engine.generate` draws for its (seed, prompt key, sample), whatever else is
    in the batch. The weights are read before the first row and must not change afterwards; the model must be in eval
    mode. One thread at a time may call.

    max_rows: rows decoded at once. positions: tokens (prompt and completion) there is room for from the beginning; a
    row that needs more waits until the rows before it have ended.
    """

    def __init__(self, policy: Policy, decoder: Decoder, *, max_rows: int, positions: int = 0) -> None:
        self._policy, self._decoder, self._max_rows, self._positions = policy, decoder, max_rows, positions
        self._session: Session | None = None
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._kinds: dict[Sampling, Sampling] = {}
        self._numbers = list(range(max_rows, -1, -1))
        self._tickets = 0
        self._eos = torch.tensor(policy.eos_ids, dtype=torch.int64, device=policy.device)

    @property
    def busy(self) -> bool:
        """Whether any row waits or runs."""
        return bool(self._waiting or self._rows)

    def submit(self, prompt: Prompt, sampling: Sampling, samples: Sequence[int] = (0,)) -> list[int]:
        """Queue one row for each of these samples of a prompt; return their tickets.

        The prompt is computed and held once for all of them.

        Raises: UserError when the prompt and the longest completion exceed the model's context.
        """
        check_context(self._policy, [prompt], sampling)
        kind = replace(sampling, seed=0, max_new_tokens=1)
        kind = self._kinds.setdefault(kind, kind)
        group = _Group(prompt.ids, waiting=len(samples))
        first = self._tickets
        self._tickets += len(samples)
        for i, key in enumerate(row_keys(sampling.seed, [prompt.key] * len(samples), samples).tolist()):
            self._waiting.append(_Row(first + i, group, key, sampling.max_new_tokens, kind))
        return list(range(first, self._tickets))

    def cancel(self, ticket: int) -> None:
        """Take a row out; nothing happens when it has ended already."""
        for row in [row for row in self._waiting if row.ticket == ticket]:
            self._waiting.remove(row)
            row.group.waiting -= 1
            self._release([row.group])
        with self._decoder.context():
            self._keep([i for i, row in enumerate(self._rows) if row.ticket != ticket])

    def step(self, most: int = 1) -> list[Drawn]:
        """Admit waiting rows and draw their first token, or draw the next for every row in the batch.

        Rows in the batch are given up to `most` tokens where that saves time, each the same number unless it ends.
        """
        if not self.busy:
            return []
        with self._decoder.context():
            if self._may_admit():
                first = len(self._rows)
                ids, logprobs = self._admit()
            else:
                first = 0
                ids, logprobs = self._advance(most)
            drawn = self._note(self._rows[first:], ids.tolist(), logprobs.tolist())
            ended = {d.ticket for d in drawn if d.finish_reason is not None}
            self._keep([i for i, row in enumerate(self._rows) if row.ticket not in ended])
        return drawn

    def _may_admit(self) -> bool:
        waits_for_room = self._rows and self._waiting and self._waiting[0].positions > self._positions
        return not waits_for_room and worth_a_prefill(len(self._waiting), len(self._rows), self._max_rows)

    def _open_session(self) -> Session:
        """Return the session, opened for all that wait; opened anew where it is too short for the first of them."""
        if self._session is None or (not self._rows and self._waiting[0].positions > self._positions):
            self._positions = max(self._positions, *(row.positions for row in self._waiting))
            self._session = self._decoder.open(max_rows=self._max_rows, positions=self._positions)
        return self._session

    def _admit(self) -> tuple[Tensor, Tensor]:
        """Fill the free places with waiting rows; return their first tokens, drawn from their prompts' logits."""
        session = self._open_session()
        new: list[_Row] = []
        while self._waiting and len(self._rows) + len(new) < self._max_rows:
            if self._waiting[0].positions > self._positions:
                break
            new.append(self._waiting.popleft())
        fresh = [group for group in dict.fromkeys(row.group for row in new) if group.number < 0]
        for group in fresh:
            group.number = self._numbers.pop()
        if fresh:
            lines = session.prefill({group.number: group.ids for group in fresh}).unbind(0)
            for group, logits in zip(fresh, lines, strict=True):
                group.logits = logits
        session.admit([row.group.number for row in new])
        logits = torch.stack([row.group.logits for row in new])
        for row in new:
            row.group.waiting, row.group.active = row.group.waiting - 1, row.group.active + 1
            if not row.group.waiting:
                row.group.logits = logits[:0]
        self._rows += new
        keys, ages = self._column(row.key for row in new), self._column(row.age for row in new)
        ids, logprobs = _sample(new, logits, keys, ages)
        return ids[:, None], logprobs[:, None]

    def _column(self, values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int64, device=self._policy.device)

    def _advance(self, most: int) -> tuple[Tensor, Tensor]:
        """Draw up to `most` tokens for every row: ids and log-probabilities, [R, n]."""
        rows, session = self._rows, self._session
        assert session is not None
        most = min(most, *(row.limit - row.age for row in rows))
        tokens, keys = self._column(row.last for row in rows), self._column(row.key for row in rows)
        ages = self._column(row.age for row in rows)
        if isinstance(session, SamplingSession):
            return _drawn_by_session(session, rows, tokens, keys, ages, most=most, ends=self._eos)
        drawn = []
        for step in range(min(most, _CUDA_POLL_STEPS) if tokens.is_cuda else 1):
            tokens, logprobs = _sample(rows, session.step(tokens), keys, ages + step)
            drawn.append((tokens, logprobs))
        ids, logprobs = (torch.stack(side, dim=1) for side in zip(*drawn, strict=True))
        return ids, logprobs

    def _note(self, rows: Sequence[_Row], ids: list[list[int]], logprobs: list[list[float]]) -> list[Drawn]:
        """Say what each row was given, up to its end."""
        drawn, ends = [], set(self._policy.eos_ids)
        for row, tokens, numbers in zip(rows, ids, logprobs, strict=True):
            count = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
            row.age, row.last = row.age + count, tokens[count - 1]
            reason: FinishReason | None = "length" if row.age == row.limit else None
            reason = "eos" if row.last in ends else reason
            drawn.append(Drawn(row.ticket, tokens[:count], numbers[:count], reason))
        return drawn

    def _keep(self, alive: list[int]) -> None:
        """Leave only these rows in the batch; the last ones move into the gaps."""
        if len(alive) == len(self._rows):
            return
        assert self._session is not None
        staying, groups = set(alive), []
        for i, row in enumerate(self._rows):
            if i not in staying:
                row.group.active -= 1
                groups.append(row.group)
        order = _close_gaps(alive)
        self._rows = [self._rows[i] for i in order]
        self._session.keep(order)
        self._release(groups)

    def _release(self, groups: Iterable[_Group]) -> None:
        """Forget the prompts that no row reads and none will."""
        for group in dict.fromkeys(groups):
            if group.number >= 0 and not group.waiting and not group.active:
                assert self._session is not None
                self._session.release(group.number)
                self._numbers.append(group.number)


def worth_a_prefill(waiting: int, running: int, places: int) -> bool:
    """Return whether rows wait for which enough places are free: all, or an eighth.

    Example:
        >>> worth_a_prefill(9, 60, 64), worth_a_prefill(9, 56, 64), worth_a_prefill(2, 60, 64)
        (False, True, True)
    """
    return waiting > 0 and (not running or places - running >= min(waiting, -(-places // 8)))


def _sample(rows: Sequence[_Row], logits: Tensor, keys: Tensor, ages: Tensor) -> tuple[Tensor, Tensor]:
    """Return a token for each row, drawn as the row asks, and its log-probability."""
    draws = uniforms(keys, ages)
    kinds: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        kinds.setdefault(id(row.kind), []).append(i)
    if len(kinds) == 1:
        return sample_tokens(logits, draws, rows[0].kind)
    ids, logprobs = torch.empty_like(keys), torch.empty(len(rows), device=keys.device)
    for numbers in kinds.values():
        index = torch.tensor(numbers, device=keys.device)
        ids[index], logprobs[index] = sample_tokens(logits[index], draws[index], rows[numbers[0]].kind)
    return ids, logprobs


def _drawn_by_session(
    session: SamplingSession,
    rows: Sequence[_Row],
    tokens: Tensor,
    keys: Tensor,
    ages: Tensor,
    *,
    most: int,
    ends: Tensor,
) -> tuple[Tensor, Tensor]:
    """Let the session draw where nothing is truncated, and draw from its logits for the other rows."""
    cut = [i for i, row in enumerate(rows) if row.kind.top_k or row.kind.top_p < 1.0 or row.kind.min_p]
    temperatures = torch.tensor([row.kind.temperature for row in rows], dtype=torch.float64)
    if cut:
        temperatures[cut] = -1.0
    steps = 1 if cut else most
    ids, logprobs, logits = session.advance(tokens, keys, ages, temperatures, steps=steps, ends=ends)
    if cut:
        ids[cut, 0], logprobs[cut, 0] = _sample([rows[i] for i in cut], logits[cut], keys[cut], ages[cut])
    return ids, logprobs


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
