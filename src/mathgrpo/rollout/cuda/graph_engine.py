"""The graph engine: decodes whole batches on the device, step after step, without asking the host."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mathgrpo.models import Policy
from mathgrpo.models.known_modules import why_not_served
from mathgrpo.models.module_weights import NotServed
from mathgrpo.models.policy import check_context, resting
from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda.decode_step import decode_step, prefill
from mathgrpo.rollout.cuda.graph_rollout import Device, Job, Rollout
from mathgrpo.rollout.cuda.graphs import StepGraphs
from mathgrpo.rollout.cuda.kernels import Reach, TorchKernels
from mathgrpo.rollout.cuda.places import BUCKETS, PlaceTable, TokenPool, reach_of
from mathgrpo.rollout.decoder import completion_until_end
from mathgrpo.rollout.engine import Engine
from mathgrpo.rollout.sampling import row_keys
from mathgrpo.rollout.trial import proven
from mathgrpo.types import Completion, Prompt, Sampling

_FEWEST_POSITIONS = 1024


class GraphEngine(Engine):
    """An `Engine` for the models `why_not_served` lets pass; memory and graphs live as long as the engine.

    graphs=False runs the same steps eagerly, on any device.

    Attributes:
        plain: makes the engine of the model's own forward pass, to fall back on.
    """

    name = "native"

    def __init__(
        self, policy: Policy, kernels: TorchKernels, *, max_rows: int = 0, graphs: bool = True, reason: str = ""
    ) -> None:
        model, device = policy.causal_lm, torch.device(policy.device)
        self._policy, self._kernels, self._max_rows = policy, kernels, max_rows
        self.reason = reason
        self.plain: Callable[[], Engine] | None = None
        self._instead: Engine | None = None
        self._device_context: AbstractContextManager[Any] = (
            torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        )
        with torch.inference_mode(), self._device_context:
            # A captured graph holds addresses: the view's stay, and are written anew before each rollout.
            self._view = view = QwenView(model, policy.compute_dtype, _FEWEST_POSITIONS)
            self._pool = TokenPool(len(view.layers), view.num_kv_heads, view.head_dim, view.dtype, device)
            self._table = PlaceTable(policy.eos_ids, device)
            self._graphs = StepGraphs(enabled=graphs)

    @property
    def num_captured(self) -> int:
        """How many step shapes have been captured."""
        return self._graphs.num_captured

    @property
    def capture_error(self) -> str:
        """Why a step could not be captured, or "": then steps run eagerly, with the same results."""
        return self._graphs.error

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt, in order; result[i][g] is sample g of prompts[i]."""
        if not prompts:
            return []
        check_context(self._policy, prompts, sampling)
        try:
            if self._instead is None:
                return self._generate(prompts, group_size, sampling)
        except NotServed as change:
            if not self.fall_back(f"the model was changed: {change}"):
                raise
        assert self._instead is not None
        return self._instead.generate(prompts, group_size, sampling)

    def fall_back(self, why: str) -> bool:
        """Decode with the model's own forward pass from now on; return whether that is another way than until now."""
        if self.plain is None or self._instead is not None:
            return False
        before, self._instead = self.reason, self.plain()
        self._graphs.forget()
        self.name, self.reason = self._instead.name, f"model forward; {why}"
        self.notes += (f"rollout engine: model forward from here on, no longer {before}: {why}",)
        return True

    def _generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        with resting(self._policy.model), torch.inference_mode(), self._device_context:
            job = self._prepare(prompts, group_size, sampling)
            share = self._view.num_heads // self._view.num_kv_heads
            tile_rows = self._kernels.tile_rows(share)
            Rollout(job, self._device(prompts, sampling), self._table, self._pool.ranges, tile_rows).run()
            completions = self._completions(len(job.keys), job.limit)
        return [completions[i : i + group_size] for i in range(0, len(completions), group_size)]

    def _prepare(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> Job:
        """Bring weights, memory and output up to date; graphs go when an address changed."""
        lengths = [len(prompt.ids) for prompt in prompts]
        limit, num_rows = sampling.max_new_tokens, len(prompts) * group_size
        slots = min(self._max_rows or num_rows, num_rows, BUCKETS[-1])
        moved = (
            self._view.refresh(max(lengths) + limit),
            self._pool.reserve(slots * limit + sum(sorted(lengths)[-slots:]), at_least=max(lengths) + limit),
            self._table.reserve(num_rows * limit, limit),
        )
        if any(moved):
            self._graphs.forget()
        samples = [g for _ in prompts for g in range(group_size)]
        keys = row_keys(sampling.seed, [p.key for p in prompts for _ in range(group_size)], samples).tolist()
        return Job(lengths, keys, group_size, limit, slots)

    def _device(self, prompts: Sequence[Prompt], sampling: Sampling) -> Device:
        model, pool, kernels, table = self._view, self._pool, self._kernels, self._table
        shape_of_sampling = replace(sampling, seed=0, max_new_tokens=1)
        prompt_reach = reach_of(max(len(prompt.ids) for prompt in prompts))

        def step(num_places: int, num_columns: int) -> None:
            reach = Reach(prompt_reach, reach_of(num_columns)) if kernels.fixed_reach else Reach(0, 0)

            def run() -> None:  # called when the step is met or captured, not when it is replayed
                decode_step(model, kernels, pool, table.view(num_places), reach, sampling)

            self._graphs.run((num_places, reach, shape_of_sampling), run)

        def sample(logits: Tensor, rows: Tensor, who: Tensor) -> None:
            kernels.sample(logits, rows, table.view(BUCKETS[-1]), who, sampling)

        def fill(numbers: Sequence[int], starts: Sequence[int]) -> Tensor:
            return prefill(model, pool, [prompts[i].ids for i in numbers], starts)

        return Device(prefill=fill, sample=sample, step=step)

    def _completions(self, num_rows: int, limit: int) -> list[Completion]:
        """Return what was sampled, in row order; a completion is everything up to its first end token."""
        places, ends = self._table.view(1), set(self._policy.eos_ids)
        ids, logprobs = (side[1 : 1 + num_rows * limit].view(num_rows, limit) for side in (places.ids, places.logprobs))
        return [completion_until_end(*row, ends) for row in zip(ids.tolist(), logprobs.tolist(), strict=True)]


def build_graph_engine(
    policy: Policy, *, max_rows: int = 0, triton: bool = True, graphs: bool = True
) -> tuple[GraphEngine | None, str]:
    """Return the engine and "", or None and why not; with Triton kernels where they pass their trial, else torch's.

    Raises: UserError when a trial has lost the device.
    """
    obstacle = why_not_served(policy.causal_lm)
    if obstacle:
        return None, f"no CUDA graphs: {obstacle}"
    obstacles: list[str] = []
    if triton and importlib.util.find_spec("triton") is None:
        triton = False
        obstacles.append("no Triton kernels: triton is not installed")

    def make(load: Callable[[], TorchKernels]) -> GraphEngine:
        kernels = load()
        reason = f"{'CUDA graphs' if graphs else 'eager steps'}, {kernels.name}"
        return GraphEngine(policy, kernels, max_rows=max_rows, graphs=graphs, reason=reason)

    for load in (_triton_kernels, TorchKernels) if triton else (TorchKernels,):
        engine, failure = proven(partial(make, load), policy)
        if engine is not None and not engine.capture_error:
            engine.reason = "; ".join([engine.reason, *obstacles])
            return engine, ""
        label = "torch operations" if load is TorchKernels else "Triton kernels"
        failure = f"were not captured ({engine.capture_error})" if engine else f"failed their trial ({failure})"
        obstacles.append(f"CUDA graphs with {label} {failure}")
    return None, "; ".join(obstacles)


def _triton_kernels() -> TorchKernels:
    from mathgrpo.rollout.cuda.triton_layers import TritonKernels

    return TritonKernels()
