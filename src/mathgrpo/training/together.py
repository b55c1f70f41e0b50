"""The parts of a run that its processes share out between them, and what they must agree on.

A step is the same step whatever the number of processes: its prompts are dealt out in turn for rollout and rewards, and
every process then has all groups, so that advantages, normalisers and metrics are computed as one process would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mathgrpo.config import Recipe
from mathgrpo.distributed import World
from mathgrpo.distributed.exchange import weights_checksum
from mathgrpo.errors import UserError
from mathgrpo.hardware.device_memory import device_bytes
from mathgrpo.runs.hook import Run, TakenStep
from mathgrpo.runs.speedometer import speed_metrics


def require_shareable(recipe: Recipe, size: int) -> None:
    """Raise UserError unless a recipe can be run by so many processes."""
    if size > 1 and recipe.rollout.vllm is not None:
        raise UserError(
            f"rollout.vllm: not with {size} processes, which would each start one; leave it out, or use one process"
        )
    if recipe.rollout.prompts_per_step < size:
        raise UserError(
            f"rollout.prompts_per_step={recipe.rollout.prompts_per_step}: fewer than the {size} processes, so that "
            f"some would have nothing to do; use at least {size}, or fewer processes"
        )


def require_same_weights(world: World, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Raise UserError unless the weights that train are the same in all processes, bit for bit."""
    if world.size == 1:
        return
    checksums = world.gather(weights_checksum([p for group in optimizer.param_groups for p in group["params"]]))
    others = [rank for rank, checksum in enumerate(checksums) if checksum != checksums[0]]
    if others:
        raise UserError(
            f"after step {step}: the weights of process {others[0]} are no longer those of process 0, which a fault of "
            "the machine or of this program must have done; continue from the last checkpoint with --resume RUN"
        )


def with_speed(run: Run, taken: TakenStep) -> TakenStep:
    """Return a step with what it says of speed among its metrics."""
    speed = speed_metrics(run.speedometer, taken.groups, taken.section, taken.times)
    return replace(taken, metrics={**taken.metrics, **speed_of_all(run.world, speed)})


def speed_of_all(world: World, speed: Mapping[str, float]) -> dict[str, float]:
    """Return a step's speed with its shares taken of all devices together, and the memory of the process with most."""
    if world.size == 1:
        return dict(speed)
    of_one = ("mfu/", "roofline/rollout", "rows_per_decode_step")
    kept = {"roofline/rollout_memory"}  # a share of a time, whoever took it
    shares = {
        name: value / world.size if name.startswith(of_one) and name not in kept else value
        for name, value in speed.items()
    }
    memory = world.gather({name: value for name, value in speed.items() if name.startswith("memory/")})
    return shares | {name: max(part.get(name, 0.0) for part in memory) for name in memory[0]}


def own_part(world: World, recipe: Recipe) -> Recipe:
    """Return the recipe with the prompts that the busiest process has of a step: what its memory is planned by."""
    prompts = -(-recipe.rollout.prompts_per_step // world.size)
    return recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"prompts_per_step": prompts})})


def own_bytes(world: World, device: str) -> int | None:
    """Return what a process may take of its device: all of a GPU, its part of main memory; None where not known."""
    whole = device_bytes(device)
    return whole if whole is None or device.startswith("cuda") else whole // world.size


def world_lines(world: World, device: str) -> list[str]:
    """Return what a reader should know of the processes; nothing for one."""
    if world.size == 1:
        return []
    by = "one CUDA device each, gradients by NCCL" if device.startswith("cuda") else "on this CPU, gradients by gloo"
    return [f"processes   {world.size}, {by}; each draws its share of the prompts, the step is the same"]
