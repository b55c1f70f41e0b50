"""What the engine asks of vLLM, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class ServerLost(Exception):
    """The connection to vLLM broke: it died, or was never there."""


@dataclass(frozen=True, slots=True)
class Request:
    """Completions of one prompt.

    Attributes:
        ids: the prompt's token ids.
        parameters: how to draw, by the names that vLLM's HTTP interface and its SamplingParams share.
    """

    ids: tuple[int, ...]
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion as vLLM gives it: token ids, with the log-probability each was drawn with."""

    ids: list[int]
    logprobs: list[float]


class Backend:
    """A running vLLM. One that is not ours to keep is never started again and logs elsewhere.

    Attributes:
        where: "server at ADDRESS" or "in this process" with the version: a part of the run's log.
    """

    where: str

    def sample(self, requests: Sequence[Request]) -> list[list[Drawn]]:
        """Return the completions of every request, in order.

        Raises: ServerLost; UserError for what vLLM refuses.
        """
        raise NotImplementedError

    def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Return the plain log-probability of every token of a prompt but the first, given those before it."""
        raise NotImplementedError

    def load(self, path: str) -> list[Any]:
        """Have every worker load a file of weights and forget what it keeps of old ones; return what each answered.

        Raises: ServerLost when cached keys and values are kept, as they are while requests hold blocks.
        """
        raise NotImplementedError

    def sleep(self) -> None:
        """Move the weights off the device and give its memory back (level 1)."""
        raise NotImplementedError

    def wake(self) -> None:
        """Undo sleep."""
        raise NotImplementedError

    def restart(self) -> bool:
        """Start vLLM again after it died; False where it is not ours to start, or was started again before."""
        return False

    def last_words(self) -> str:
        """Return the end of its log as one line, "" where there is none."""
        return ""

    def keep_log(self, path: str) -> None:
        """Write the log to this file from now on, with what it holds so far."""

    def close(self) -> None:
        """End what was started; more than once does no harm."""
