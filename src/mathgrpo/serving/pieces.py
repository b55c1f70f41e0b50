"""One request's completions as pieces of text, ended by the model, a stop text or the token limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mathgrpo.models import Policy
from mathgrpo.serving.stream import Detokenizer, Streamer
from mathgrpo.types import Prompt, Sampling

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Job:
    """What one request asks for: `samples` completions of a prompt; the stop texts are no part of them."""

    prompt: Prompt
    sampling: Sampling
    samples: int = 1
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """The next text of one of a request's completions.

    Attributes:
        sample: which of them, from 0.
        text: may be empty when it is the last.
        tokens: drawn for this completion so far, the end token included.
        finish: why it ends here, None when it goes on.
    """

    sample: int
    text: str
    tokens: int
    finish: Finish | None = None


class StopText:
    """Text in, the same text out up to the first stop text; what may be the beginning of one waits.

    Example:
        >>> stop = StopText(("END",))
        >>> stop.push("one E"), stop.push("ND two"), stop.found
        ('one ', '', True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._waiting = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return what is certain to come before any stop text."""
        self._waiting += text
        starts = [start for stop in self._stops if (start := self._waiting.find(stop)) >= 0]
        if starts:
            self.found = True
            return self._take(min(starts))
        longest = max((_overlap(self._waiting, stop) for stop in self._stops), default=0)
        return self._take(len(self._waiting) - longest)

    def rest(self) -> str:
        """Return what waited, when nothing more comes."""
        return "" if self.found else self._take(len(self._waiting))

    def _take(self, length: int) -> str:
        text, self._waiting = self._waiting[:length], self._waiting[length:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how much of the text's end is a beginning of the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class _Sample:
    """One completion under way."""

    def __init__(self, policy: Policy, index: int, stops: Sequence[str]) -> None:
        self._index = index
        self._detokenizer = Detokenizer(policy)
        self._stop = StopText(stops)
        self.done = False

    def push(self, token: int, *, last: bool) -> Piece | None:
        """Return what the token adds; last: the limit allows no other one."""
        text = self._stop.push(self._detokenizer.push(token))
        ended = self._detokenizer.ended
        if (ended or last) and not self._stop.found:
            text += self._stop.push(self._detokenizer.rest())
        self.done = ended or last or self._stop.found
        if self.done:
            finish: Finish = "stop" if ended or self._stop.found else "length"
            return self._piece(text + self._stop.rest(), finish)
        return self._piece(text, None) if text else None

    def _piece(self, text: str, finish: Finish | None) -> Piece:
        return Piece(self._index, text, len(self._detokenizer.tokens), finish)


def generate_pieces(streamer: Streamer, job: Job, cancelled: Callable[[], bool]) -> Iterator[Piece]:
    """Yield the pieces of a job's completions as they are drawn; each ends with a piece that has a finish.

    cancelled is asked before every token; when it answers True, nothing more comes.
    """
    samples = [_Sample(streamer.policy, i, job.stops) for i in range(job.samples)]
    steps = streamer.samples(job.prompt, job.sampling, job.samples)
    for position in range(1, job.sampling.max_new_tokens + 1):
        if cancelled() or all(sample.done for sample in samples):
            return
        tokens = next(steps, None)
        if tokens is None:
            return
        for sample, token in zip(samples, tokens, strict=True):
            if token is None or sample.done:
                continue
            piece = sample.push(token, last=position == job.sampling.max_new_tokens)
            if piece is not None:
                yield piece
