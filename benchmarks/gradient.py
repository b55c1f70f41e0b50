"""Proof before timing: both sides compute the same gradient from the same rollouts."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any


def save_trl_gradient(trainer: Any, rows: list[dict[str, Any]], path: Path) -> None:
    """Let TRL sample, reward and differentiate one step; write its batch and its gradient (before clipping).

    rows: the data set's rows of the step, each repeated for its group, as TRL's sampler hands them out.
    """
    import torch
    from safetensors.torch import save_file

    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions(rows)
    trainer.model.zero_grad()
    with trainer.compute_loss_context_manager():
        loss = trainer._compute_loss(trainer.model, batch)
    torch.autograd.backward(loss)
    gradient = {name: p.grad.float().cpu() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    save_file({name: value.contiguous() for name, value in gradient.items()}, path.with_suffix(".safetensors"))
    facts = {
        "prompt_ids": _unpadded(batch["prompt_ids"], batch["prompt_mask"]),
        "completion_ids": _unpadded(batch["completion_ids"], batch["completion_mask"]),
        "advantages": batch["advantages"].tolist(),
        "group_size": trainer.num_generations,
        "max_new_tokens": trainer.max_completion_length,
        "loss": loss.item(),
    }
    path.write_text(json.dumps(facts))


def _unpadded(ids: Any, mask: Any) -> list[list[int]]:
    return [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]


def compare_gradient(ready: Any, path: Path) -> dict[str, float]:
    """Return how far our gradient on TRL's batch is from TRL's.

    relative: L2 norm of the difference over the L2 norm of TRL's gradient. norm: TRL's. tokens: of the completions.
    In a lower precision with float32 weights the two sides round differently; then rounding and trl_rounding are the
    distance of each side's gradient from that of the model's own modules in float32, over the latter's norm. The
    weights do not change.
    """
    import torch
    from safetensors.torch import load_file

    facts = json.loads(path.read_text())
    theirs = load_file(path.with_suffix(".safetensors"))
    ours, loss = _our_gradient(ready.policy, facts, ready.recipe.grpo, ready.machinery)
    if ours.keys() != theirs.keys():
        raise ValueError(f"the two sides train different parameters: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    if not (norm := _norm(theirs)) > 0:
        raise ValueError("TRL's gradient is zero, so that agreement would mean nothing; take another step's prompts")
    found = {
        "relative": distance(ours, theirs), "norm": norm, "loss": loss, "trl_loss": facts["loss"],
        "tokens": sum(len(ids) for ids in facts["completion_ids"]),
    }  # fmt: skip
    masters = all(p.dtype == torch.float32 for p in ready.policy.model.parameters())
    if masters and ready.policy.compute_dtype != torch.float32:
        exact_policy = dataclasses.replace(ready.policy, compute_dtype=torch.float32)
        plain = dataclasses.replace(ready.machinery, fused_forward="off", attention="sdpa", compile="off")
        exact, _ = _our_gradient(exact_policy, facts, ready.recipe.grpo, plain)
        found |= {"rounding": distance(ours, exact), "trl_rounding": distance(theirs, exact)}
    torch.manual_seed(0)
    return found


def _our_gradient(policy: Any, facts: dict[str, Any], section: Any, machinery: Any) -> tuple[dict[str, Any], float]:
    """Return our gradient on TRL's batch before clipping, by parameter, and the loss."""
    from mathgrpo.update import policy_update

    recorder = _recorder(policy.model)
    stats = policy_update(
        policy, recorder, _groups(facts), section, temperature=1.0, max_new_tokens=facts["max_new_tokens"],
        max_grad_norm=1e30, machinery=machinery,
    )  # fmt: skip
    return recorder.gradient, stats.metrics["loss"]


def _norm(gradient: dict[str, Any]) -> float:
    return math.sqrt(sum(float(value.double().pow(2).sum()) for value in gradient.values()))


def distance(gradient: dict[str, Any], reference: dict[str, Any]) -> float:
    """Return the L2 norm of the difference over that of the reference, by the reference's parameters."""
    return _norm({name: gradient[name].double() - reference[name].double() for name in reference}) / _norm(reference)


def _groups(facts: dict[str, Any]) -> list[Any]:
    from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup

    size, groups = facts["group_size"], []
    for start in range(0, len(facts["prompt_ids"]), size):
        rows = slice(start, start + size)
        if any(ids != facts["prompt_ids"][start] for ids in facts["prompt_ids"][rows]):
            raise ValueError("TRL's batch is not in groups of one prompt")
        ids = [tuple(row) for row in facts["completion_ids"][rows]]
        completions = tuple(Completion(row, (0.0,) * len(row), "eos") for row in ids)
        groups.append(
            RolloutGroup(
                Problem(f"question {start}", "1"), Prompt(tuple(facts["prompt_ids"][start]), start), completions,
                ("",) * size, rewards=tuple(facts["advantages"][rows]), advantages=tuple(facts["advantages"][rows]),
            )
        )  # fmt: skip
    return groups


def _recorder(model: Any) -> Any:
    """Return an optimizer that changes nothing and keeps the gradient it is handed."""
    import torch

    named = {name: p for name, p in model.named_parameters() if p.requires_grad}

    class Recorder(torch.optim.SGD):
        gradient: dict[str, Any]

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.gradient = {name: p.grad.detach().float().cpu() for name, p in named.items() if p.grad is not None}

    return Recorder(list(named.values()), lr=0.0)
