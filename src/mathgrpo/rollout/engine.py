"""What every rollout engine can, and the engine on a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mathgrpo.models import Policy
from mathgrpo.models.module_weights import NotServed
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
        notes: what a user should know of it that was not so when it was chosen.
    """

    name: str
    reason: str
    metrics: Mapping[str, float] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt; result[i][g] is sample g of prompts[i]."""
        raise NotImplementedError

    def fall_back(self, why: str) -> bool:
        """Decode with the model's own forward pass from now on; return whether that is another way than until now."""
        return False

    def make_room(self) -> None:
        """Give memory outside this process back until the next rollout, where that is asked for."""

    def keep_log(self, folder: Path) -> None:
        """Let what runs outside this process log into a run folder, as NAME.log."""

    def close(self) -> None:
        """End what it started outside this process."""


class NativeEngine(Engine):
    """An `Engine` on a `Decoder`."""

    def __init__(
        self, policy: Policy, decoder: Decoder, *, max_rows: int = 0, reason: str = "",
        plain: Callable[[], Decoder] | None = None,
    ) -> None:  # fmt: skip
        """plain: makes the decoder of the model's own forward pass, if this one is another."""
        self._policy, self._decoder, self._max_rows, self._plain = policy, decoder, max_rows, plain
        self.name, self.reason = "fallback" if decoder.slow else "native", reason

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt, in order; result[i][g] is sample g of prompts[i].

        A model that was wrapped since the engine was chosen, in a way the decoder does not know, is decoded with its
        own forward pass from then on.
        """
        if not prompts:
            return []
        check_context(self._policy, prompts, sampling)
        try:
            return self._generate(prompts, group_size, sampling)
        except NotServed as change:
            if not self.fall_back(f"the model was changed: {change}"):
                raise
            return self._generate(prompts, group_size, sampling)

    def fall_back(self, why: str) -> bool:
        """Decode with the model's own forward pass from now on; return whether that is another way than until now."""
        if self._plain is None:
            return False
        before, self._decoder, self._plain = self._decoder.name, self._plain(), None
        self.name, self.reason = "fallback" if self._decoder.slow else "native", f"{self._decoder.name}; {why}"
        self.notes += (f"rollout engine: {self._decoder.name} from here on, no longer the {before}: {why}",)
        return True

    def _generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
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
