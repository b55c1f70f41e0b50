"""What every rollout engine can, and the engine on a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mathgrpo.models import Policy
from mathgrpo.models.policy import check_context, resting
from mathgrpo.rollout.decoder import Decoder
from mathgrpo.rollout.scheduler import Rows
from mathgrpo.types import Completion, FinishReason, Prompt, Sampling

_MOST_STEPS = 64
"""Steps that one call of the scheduler makes, at most: an interrupt waits no longer than that."""


class Engine:
    """Draws completions from the policy as it is at the moment of the call.

    Attributes:
        name: "native", "fallback" (any model, slowly) or "vllm".
        reason: how it decodes, or why it is the fallback; one line for the run's log.
        metrics: what it measured in its last rollout, by name.
    """

    name: str
    reason: str
    metrics: Mapping[str, float] = MappingProxyType({})

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt; result[i][g] is sample g of prompts[i]."""
        raise NotImplementedError

    def make_room(self) -> None:
        """Give memory outside this process back until the next rollout, where that is asked for."""

    def keep_log(self, folder: Path) -> None:
        """Let what runs outside this process log into a run folder, as NAME.log."""

    def close(self) -> None:
        """End what it started outside this process."""


class NativeEngine(Engine):
    """An `Engine` on a `Decoder`."""

    def __init__(self, policy: Policy, decoder: Decoder, *, max_rows: int = 0, reason: str = "") -> None:
        self._policy, self._decoder, self._max_rows = policy, decoder, max_rows
        self.name, self.reason = "fallback" if decoder.slow else "native", reason

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt, in order; result[i][g] is sample g of prompts[i]."""
        if not prompts:
            return []
        check_context(self._policy, prompts, sampling)
        num_rows = len(prompts) * group_size
        rows = Rows(self._policy, self._decoder, max_rows=min(self._max_rows or num_rows, num_rows))
        for prompt in prompts:
            rows.submit(prompt, sampling, range(group_size))
        with resting(self._policy.model), self._decoder.context():
            completions = _run_to_end(rows, num_rows)
        return [completions[i : i + group_size] for i in range(0, num_rows, group_size)]


def _run_to_end(rows: Rows, count: int) -> list[Completion]:
    """Return the completions of the rows with tickets 0..count-1, in this order."""
    ids: list[list[int]] = [[] for _ in range(count)]
    logprobs: list[list[float]] = [[] for _ in range(count)]
    reasons: list[FinishReason] = ["length"] * count
    while rows.busy:
        for drawn in rows.step(_MOST_STEPS):
            ids[drawn.ticket] += drawn.ids
            logprobs[drawn.ticket] += drawn.logprobs
            reasons[drawn.ticket] = drawn.finish_reason or "length"
    return [Completion(tuple(ids[i]), tuple(logprobs[i]), reasons[i]) for i in range(count)]
