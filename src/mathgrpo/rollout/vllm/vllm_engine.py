"""The engine on a running vLLM: weights pushed when they changed, verified, then sampled from."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError, named
from mathgrpo.models import Policy
from mathgrpo.models.policy import check_context
from mathgrpo.rollout.decoder import completion_until_end
from mathgrpo.rollout.engine import Engine
from mathgrpo.rollout.vllm import pushed_weights as probe
from mathgrpo.rollout.vllm.backend import Backend, Drawn, Request, ServerLost
from mathgrpo.rollout.vllm.pushed_weights import Difference, fingerprint, served_weights, write_weights
from mathgrpo.text import number
from mathgrpo.types import Completion, Prompt, Sampling

_PROBE_TOKENS = 128
"""Longest probe: the first prompt of a rollout, cut there."""
Scratch = tempfile.TemporaryDirectory[str]


class VllmEngine(Engine):
    """An `Engine` whose weights are a copy in vLLM.

    Before a rollout the policy's fingerprint is compared with that of the weights pushed last; where it differs they
    are pushed again, and no completion is drawn before vLLM has said which bytes it took and has given a prompt the
    log-probabilities that the policy gives it.

    Attributes:
        metrics: of the last generate call: vllm/push_seconds, vllm/pushed, vllm/probe_difference/mean and /max.
    """

    name = "vllm"

    def __init__(self, policy: Policy, backend: Backend, section: VllmSection, scratch: Scratch):
        self._policy, self._backend, self._section, self._scratch = policy, backend, section, scratch
        self._pushed: tuple[int, ...] | None = None
        self._asleep = False
        self.reason = f"{backend.where}; weights are pushed through {scratch.name} and verified before every rollout"
        self.metrics: dict[str, float] = {}

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt, in order; result[i][g] is sample g of prompts[i].

        Raises: UserError when vLLM dies a second time, refuses, or does not compute what the policy does.
        """
        if not prompts:
            return []
        check_context(self._policy, prompts, sampling)
        while True:
            try:
                return self._generate(prompts, group_size, sampling)
            except ServerLost as lost:
                words, self._pushed, self._asleep = self._words(), None, False
                if not self._backend.restart():
                    where = self._backend.where
                    raise UserError(f"{named('rollout.vllm')}: {where} was lost ({lost}): {words}") from lost

    def trial(self) -> Difference:
        """Push weights that nobody trained, and return how far vLLM's log-probabilities are from theirs.

        A push that leaves one matrix behind cannot be seen after a small optimizer step, but here every matrix moves.
        Raises: UserError when they are further apart than rounding explains.
        """
        probe.require_complete(self._policy)
        weights, moved = probe.trial_policy(self._policy, served_weights(self._policy))
        ids = probe.trial_ids(self._policy)
        limit = self._section.probe_tolerance or probe.trial_limit(moved, ids)
        try:
            self._push(weights)
            return self._compare(ids, moved, limit, "a trial of new weights")
        except ServerLost as lost:
            raise UserError(f"{named('rollout.vllm')}: it was lost in its trial ({lost}): {self._words()}") from lost

    def make_room(self) -> None:
        """Give the device's memory back until the next rollout, where rollout.vllm.sleep asks for it."""
        if self._section.sleep and not self._asleep:
            self._backend.sleep()
            self._asleep = True

    def keep_log(self, folder: Path) -> None:
        """Write vLLM's log into this folder from now on."""
        self._backend.keep_log(str(folder / f"{self.name}.log"))

    def close(self) -> None:
        """End what was started, and take the weights out of the exchange folder."""
        self._backend.close()
        self._scratch.cleanup()

    def _generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        if self._asleep:
            self._backend.wake()
            self._asleep = False
        self._synchronise(prompts[0].ids[:_PROBE_TOKENS])
        count = group_size if sampling.temperature > 0.0 else 1  # greedy completions of a prompt are all the same
        shared = _parameters(sampling, self._policy.eos_ids) | {"n": count}
        requests = [Request(p.ids, shared | {"seed": _seed(sampling.seed, p.key)}) for p in prompts]
        ends = set(self._policy.eos_ids)
        drawn = [[_completion(row, ends) for row in rows] for rows in self._backend.sample(requests)]
        return [rows if len(rows) == group_size else rows * group_size for rows in drawn]

    def _synchronise(self, ids: Sequence[int]) -> None:
        """Push the weights if they are others than vLLM has, and verify."""
        self.metrics = {"vllm/pushed": 0.0, "vllm/push_seconds": 0.0}
        now = fingerprint(self._policy)
        if now == self._pushed:
            return
        started = time.perf_counter()
        self._pushed = None
        self._push(served_weights(self._policy))
        limit = self._section.probe_tolerance or probe.tolerance(self._policy.compute_dtype)
        found = self._compare(ids, self._policy, limit, "the pushed weights")
        self._pushed = now
        self.metrics = {
            "vllm/pushed": 1.0, "vllm/push_seconds": time.perf_counter() - started,
            "vllm/probe_difference/mean": found.mean, "vllm/probe_difference/max": found.largest,
        }  # fmt: skip

    def _push(self, weights: dict[str, Tensor]) -> None:
        """Hand the weights over in a file, and see that every worker took these bytes and no others."""
        folder = Path(self._scratch.name) / "model"
        folder.mkdir(exist_ok=True)
        fresh = folder / "model.safetensors.new"
        digest = write_weights(weights, fresh)
        path = folder / "model.safetensors"
        fresh.replace(path)  # a server that is started again loads these
        for worker, answer in enumerate(self._backend.load(str(path))):
            if not isinstance(answer, dict) or answer.get("digest") != digest:
                raise UserError(
                    f"{named('rollout.vllm')}: worker {worker} took other weights than were pushed "
                    f"({answer}; {len(weights)} tensors with digest {digest[:16]} "
                    f"were written to {path}); is the folder shared?"
                )

    def _compare(self, ids: Sequence[int], policy: Policy, limit: float, what: str) -> Difference:
        """Return how far vLLM's log-probabilities of a prompt are from a policy's.

        Raises: UserError when further than rounding explains.
        """
        if len(ids) < 2:
            return Difference(0.0, 0.0)
        found = probe.difference(self._backend.prompt_logprobs(ids), probe.plain_logprobs(policy, ids))
        if not found.mean <= limit:
            raise UserError(
                f"rollout.vllm.probe_tolerance={limit:g}: after {what} vLLM's log-probabilities of {len(ids)} tokens "
                f"are {number(found.mean, 2)} off on average, {number(found.largest, 2)} at most, so it does "
                f"not compute what the policy does; use {named('rollout.vllm', 'none')} for this model"
            )
        return found

    def _words(self) -> str:
        return self._backend.last_words() or "it keeps no log here"


def _seed(seed: int, key: int) -> int:
    """Return the seed of a prompt's noise, 63 bits; vLLM adds the sample's number to it."""
    mixed = hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "little") >> 1


def _parameters(sampling: Sampling, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """Return vLLM's sampling parameters.

    Every parameter that shapes the distribution is set, so that no default of the served model takes part. End tokens
    are the policy's alone: vLLM's own are ignored and ours given as stop tokens.
    """
    return {
        "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "top_k": sampling.top_k, "min_p": sampling.min_p, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "logprobs": 0, "ignore_eos": True, "stop_token_ids": list(stop_ids),
        "min_tokens": 0, "skip_special_tokens": False,
    }  # fmt: skip


def _completion(drawn: Drawn, ends: set[int]) -> Completion:
    """Return what vLLM drew, up to its end token.

    Raises: ServerLost unless every token came with a finite log-probability.
    """
    if len(drawn.ids) != len(drawn.logprobs) or not all(p is not None and math.isfinite(p) for p in drawn.logprobs):
        raise ServerLost(f"a completion of {len(drawn.ids)} tokens came without a finite log-probability for each")
    return completion_until_end(drawn.ids, drawn.logprobs, ends)
