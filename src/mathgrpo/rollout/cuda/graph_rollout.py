"""One generate call on the graph engine: who is in the batch, who waits, when the host looks.

Shapes: N rows (completions) of the call, T max_new_tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mathgrpo.hardware.cuda_care import upload
from mathgrpo.rollout.cuda.places import NEW, PlaceTable, Ranges, Row, bucket_of
from mathgrpo.rollout.scheduler import worth_a_prefill

POLL_STEPS = 8
"""Decode steps between two looks at the finished flags."""


@dataclass(frozen=True, slots=True)
class Device:
    """What the device does for a rollout.

    Attributes:
        prefill: prompts by number and their starts in the pool -> next-token logits [n, V].
        sample: logits [n, V], rows of them, and the places they are for; one drawn token for each place.
        step: number of places, and completion columns in use after it; one token for every place.
    """

    prefill: Callable[[Sequence[int], Sequence[int]], Tensor]
    sample: Callable[[Tensor, Tensor, Tensor], None]
    step: Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """The rows to sample: group_size of each prompt, in order.

    Attributes:
        prompt_lengths: tokens of each prompt.
        keys: the noise key of each row.
        limit: max_new_tokens.
        slots: rows in flight at most.
    """

    prompt_lengths: Sequence[int]
    keys: Sequence[int]
    group_size: int
    limit: int
    slots: int


class Rollout:
    """The rows in the batch, the rows that wait, and the pool ranges they hold."""

    def __init__(self, job: Job, device: Device, table: PlaceTable, ranges: Ranges, tile_rows: int) -> None:
        self._job, self._device, self._table, self._ranges, self._tile_rows = job, device, table, ranges, tile_rows
        self._waiting = deque(range(len(job.keys)))
        self._rows: list[Row] = []
        self._ages: dict[int, int] = {}
        self._prompt_starts: dict[int, int] = {}
        self._held: dict[int, Tensor] = {}
        self._poll = FlagPoll()
        self._bucket = 0

    def run(self) -> None:
        """Sample every row to its end."""
        while self._waiting or self._rows:
            if worth_a_prefill(len(self._waiting), len(self._rows), self._job.slots) and self._admit():
                continue
            self._advance()
            self._drop_finished()

    def _advance(self) -> None:
        """Run some steps; rows that end meanwhile stand still."""
        youngest, oldest = min(self._ages.values()), max(self._ages.values())
        for done in range(min(POLL_STEPS, self._job.limit - youngest)):
            self._device.step(self._bucket, min(oldest + done + 1, self._job.limit))
        count = min(POLL_STEPS, self._job.limit - youngest)
        self._ages = {index: age + count for index, age in self._ages.items()}

    def _admit(self) -> bool:
        """Give waiting rows a place and their first token; return False when the pool has no room for any."""
        new = self._take_rows()
        if not new:
            return False
        prompts = list(dict.fromkeys(row.prompt for row in new))
        logits = self._first_logits(prompts)
        places = {row.index: place for place, row in enumerate(self._rows)}
        self._rows = sorted([*self._rows, *new], key=lambda row: row.index)
        self._load([places.get(row.index, NEW) for row in self._rows])
        admitted = {row.index for row in new}
        who = [place for place, row in enumerate(self._rows) if row.index in admitted]
        lines = [prompts.index(self._rows[place].prompt) for place in who]
        self._device.sample(logits, _index(lines, logits), _index(who, logits))
        self._ages.update(dict.fromkeys(admitted, 1))
        self._drop_finished()
        return True

    def _take_rows(self) -> list[Row]:
        """Take waiting rows for which there are slots and memory, with their ranges of the pool."""
        rows: list[Row] = []
        while self._waiting and len(self._rows) + len(rows) < self._job.slots:
            index = self._waiting[0]
            prompt = index // self._job.group_size
            slot = self._ranges.take(self._job.limit)
            if slot is None:
                break
            if not self._hold_prompt(prompt):
                self._ranges.give_back(slot, self._job.limit)
                break
            self._waiting.popleft()
            rows.append(
                Row(
                    index=index,
                    key=self._job.keys[index],
                    slot=slot,
                    prompt=prompt,
                    prompt_start=self._prompt_starts[prompt],
                    prompt_length=self._job.prompt_lengths[prompt],
                    out_start=index * self._job.limit,
                )
            )
        return rows

    def _hold_prompt(self, prompt: int) -> bool:
        """Give the prompt a range unless it has one; return whether it has one now."""
        if prompt not in self._prompt_starts:
            start = self._ranges.take(self._job.prompt_lengths[prompt], from_end=True)
            if start is None:
                return False
            self._prompt_starts[prompt] = start
        return True

    def _first_logits(self, prompts: Sequence[int]) -> Tensor:
        """Return the prompts' next-token logits, in their order; each prompt is computed once.

        Rows wait prompt by prompt, so only the last prompt can have rows still waiting: its logits are kept.
        """
        fresh = [prompt for prompt in prompts if prompt not in self._held]
        if fresh:
            lines = self._device.prefill(fresh, [self._prompt_starts[prompt] for prompt in fresh]).unbind(0)
            self._held |= zip(fresh, lines, strict=True)
        logits = torch.stack([self._held[prompt] for prompt in prompts])
        last = max(prompts)
        more = bool(self._waiting) and self._waiting[0] // self._job.group_size == last
        self._held = {last: self._held[last].clone()} if more else {}
        return logits

    def _drop_finished(self) -> None:
        """Let rows go that are known to have ended, when that makes the batch smaller or room for waiting rows."""
        flags = self._poll.exchange(self._table.view(len(self._rows)).done)
        limit = self._job.limit
        ended = [self._ages[row.index] >= limit or bool(flags and flags[i]) for i, row in enumerate(self._rows)]
        alive = [place for place, over in enumerate(ended) if not over]
        if len(alive) == len(self._rows):
            return
        if alive and not self._waiting and bucket_of(len(alive)) == self._bucket:
            return
        for row, over in zip(self._rows, ended, strict=True):
            if over:
                self._ranges.give_back(row.slot, limit)
                del self._ages[row.index]
        self._rows = [self._rows[place] for place in alive]
        self._release_prompts()
        self._load(alive)

    def _release_prompts(self) -> None:
        """Free the prompts that no row reads and none will."""
        used = {row.prompt for row in self._rows} | {index // self._job.group_size for index in self._waiting}
        for prompt in [p for p in self._prompt_starts if p not in used]:
            self._ranges.give_back(self._prompt_starts.pop(prompt), self._job.prompt_lengths[prompt])

    def _load(self, sources: Sequence[int]) -> None:
        self._poll.clear()
        if self._rows:
            self._bucket = bucket_of(len(self._rows))
            self._table.load(self._rows, sources, self._bucket, self._tile_rows)


class FlagPoll:
    """Flags are asked for after some steps and read after some more: by then the copy has long been made.

    Flags only ever rise, so old ones are safe to act on; `clear` forgets them when the places change.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, done: Tensor) -> list[int] | None:
        """Ask for these flags; return the ones asked for before, or None when there are none."""
        before, self._pending = self._pending, self._ask(done)
        if before is None:
            return None
        flags, event = before
        if event is not None:
            event.synchronize()
        return [int(flag) for flag in flags.tolist()]

    def clear(self) -> None:
        """Forget the flags asked for: they belong to places that are no more."""
        self._pending = None

    def _ask(self, done: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if not done.is_cuda:
            return done.clone(), None
        flags = torch.empty(done.shape, dtype=done.dtype, pin_memory=True)
        flags.copy_(done, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return flags, event


def _index(numbers: Sequence[int], like: Tensor) -> Tensor:
    return upload(torch.tensor(list(numbers), dtype=torch.int64), like.device)
