"""Hand-made groups, a policy record and an optimizer that remembers gradients, for the tests of mathgrpo.grpo."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, fields
from typing import Any

import torch

from fakes import tiny_model
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo import with_advantages
from mathgrpo.grpo.importance import Importance
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from mathgrpo.update import UpdateStats, policy_update

EOS = 1
MAX_NEW_TOKENS = 9


@dataclass
class TinyPolicy:
    """What policy_update needs of a policy."""

    model: Any
    device: str = "cpu"
    compute_dtype: torch.dtype = torch.float32

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class RecordingSGD(torch.optim.SGD):
    """SGD that keeps a copy of the gradients of every step."""

    def __init__(self, model: Any, lr: float = 0.0) -> None:
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.gradients: list[dict[str, torch.Tensor]] = []
        super().__init__([p for _, p in self.named], lr=lr)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients.append({name: p.grad.clone() for name, p in self.named if p.grad is not None})
        super().step(closure)


def make_groups(
    *, num_groups: int = 3, group_size: int = 4, seed: int = 0, scale: Any = "group", same_rewards: tuple[int, ...] = ()
) -> list[RolloutGroup]:
    """Return ragged groups with advantages; groups in same_rewards have no spread; one completion in four is cut."""
    draw = random.Random(seed)
    groups = []
    for b in range(num_groups):
        completions = []
        for g in range(group_size):
            truncated = (b + g) % 4 == 3
            # Lengths 1 (end token only) to 7, and MAX_NEW_TOKENS for truncated ones.
            length = MAX_NEW_TOKENS if truncated else 1 + (3 * g + 2 * b) % 7
            body = [draw.randrange(6, 90) for _ in range(length if truncated else length - 1)]
            ids = tuple(body if truncated else [*body, EOS])
            logprobs = tuple(-draw.random() for _ in ids)
            completions.append(Completion(ids, logprobs, "length" if truncated else "eos"))
        rewards = tuple(0.5 if b in same_rewards else float(draw.randrange(3)) for _ in range(group_size - 1))
        rewards = (*rewards, 0.5 if b in same_rewards else 1.5)
        prompt = Prompt(tuple(draw.randrange(6, 90) for _ in range(3 + 2 * b)), b)
        problem = Problem(question=f"question {b}", answer="1")
        groups.append(RolloutGroup(problem, prompt, tuple(completions), ("",) * group_size, rewards=rewards))
    return with_advantages(groups, scale)


MACHINERY = {field.name for field in fields(Machinery)}


def update(
    model: Any, groups: list[RolloutGroup], *, lr: float = 0.0, reference: Any = None, temperature: float = 1.0,
    max_grad_norm: float = 1e9, importance_weights: Importance | None = None, **section: Any,
) -> tuple[UpdateStats, list[dict[str, torch.Tensor]]]:  # fmt: skip
    """Run policy_update with plain SGD; return its stats and the gradients of each optimizer step."""
    optimizer, machinery = RecordingSGD(model, lr), {name: section.pop(name) for name in MACHINERY & section.keys()}
    stats = policy_update(
        TinyPolicy(model), optimizer, groups, GrpoSection(**section), temperature=temperature,
        max_new_tokens=MAX_NEW_TOKENS, max_grad_norm=max_grad_norm, reference=reference,
        importance=importance_weights, machinery=Machinery(**machinery),
    )  # fmt: skip
    return stats, optimizer.gradients


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the largest absolute difference of two gradients, relative to the largest entry of the second."""
    assert first.keys() == second.keys()
    scale = max(g.abs().max().item() for g in second.values())
    assert scale > 0
    return max((first[name] - second[name]).abs().max().item() for name in second) / scale


def lora_model(architecture: str = "qwen2", *, lm_head: bool = False) -> Any:
    """Return a tiny model with an adapter that is not the identity."""
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "down_proj"] + (["lm_head"] if lm_head else [])
    overrides = {"tie_word_embeddings": False} if lm_head else {}
    model = get_peft_model(tiny_model(architecture, **overrides), LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()
