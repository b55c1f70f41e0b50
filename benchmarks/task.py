"""The task all contestants share: problems in order, prompts, rewards. Made once, before any contestant starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.models import count_parameters, save_random_model
from benchmarks.settings import Settings

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.types import Problem

FORMAT = "xml"
FORCED_END = 1 << 24
"""An end id that no vocabulary has: nothing ends before its limit."""


def prepare_task(settings: Settings, folder: Path) -> None:
    """Write problems, the model if it is a random one, and every step's prompts into a folder.

    A random model stands beside the folder, for other experiments too. No contestant makes anything while others are
    timed.
    """
    from mathgrpo.config.recipe import ProblemsSection
    from mathgrpo.models.locate import locate_model
    from mathgrpo.problems import load_problem_sets

    folder.mkdir(parents=True, exist_ok=True)
    section = ProblemsSection(
        source=settings.problems, train_size=settings.train_problems, heldout_size=settings.heldout_problems
    )
    sets = load_problem_sets(section)
    for stem, problems in (("train", sets.train), ("test", sets.heldout)):
        rows = [json.dumps({"question": p.question, "answer": p.answer}) for p in problems]
        (folder / f"{stem}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    path = model_path(settings, folder)
    if settings.model != "starter" and not (Path(path) / "config.json").is_file():
        save_random_model(settings.model, Path(path), device=settings.device)
    model = locate_model(path)
    prompts = _prompts(sets.train, settings, model)
    facts = {"model": model, "parameters": count_parameters(model), "longest_prompt": max(map(len, prompts))}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    (folder / "facts.json").write_text(json.dumps(facts))


def measure_machine(settings: Settings) -> None:
    """Measure the roofline now, if no cache has it, rather than while several contestants start side by side."""
    import torch

    from mathgrpo.hardware.roofline import machine_roofline

    machine_roofline(settings.device, getattr(torch, settings.dtype))


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what `prepare_task` found out: model (its folder), parameters, longest_prompt (tokens)."""
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return facts


def _prompts(problems: Sequence[Problem], settings: Settings, model: str) -> list[list[int]]:
    """Return every step's tokenised prompts, for a contestant that has none of our code."""
    from transformers import AutoTokenizer

    from mathgrpo.formats import get_format
    from mathgrpo.formats.chat import encode_prompt

    tokenizer, fmt = AutoTokenizer.from_pretrained(model), get_format(FORMAT)
    return [list(encode_prompt(tokenizer, p, fmt).ids) for p in problems_in_order(problems, settings)]


def model_path(settings: Settings, folder: Path) -> str:
    """Return what to give for model.path."""
    return "starter" if settings.model == "starter" else str(folder.parent / "models" / settings.model)


def recipe_of(settings: Settings, folder: Path) -> Recipe:
    """Return the settings as a recipe of this project."""
    from mathgrpo.config import Recipe

    reward = str(Path(__file__).with_name("spread_reward.py")) + ":spread"
    return Recipe.model_validate(
        {
            "run": {"device": settings.device, "seed": settings.seed},
            "model": {"path": model_path(settings, folder), "dtype": settings.dtype},
            "problems": {
                "source": str(folder),
                "train_size": settings.train_problems,
                "heldout_size": settings.heldout_problems,
            },
            "format": {"name": FORMAT},
            "rewards": {"correct": 1.0, "format": 0.1} if settings.task_reward else {reward: 1.0},
            "rollout": {
                "prompts_per_step": settings.prompts_per_step,
                "group_size": settings.group_size,
                "max_new_tokens": settings.max_new_tokens,
            },
            "grpo": {"advantage_scale": settings.advantage_scale},
            "optimizer": {
                "learning_rate": settings.learning_rate,
                "max_grad_norm": settings.max_grad_norm,
                "schedule": settings.schedule,
                "warmup_ratio": settings.warmup_steps / settings.num_steps,
            },
            "training": {"steps": settings.num_steps},
        }
    )


def problems_in_order(problems: Sequence[Problem], settings: Settings) -> list[Problem]:
    """Return the problems of steps 0, 1, …, one after another, as this project's loop takes them."""
    from mathgrpo.training.recipe_task import problems_of_step

    steps = range(settings.num_steps)
    return [p for i in steps for p in problems_of_step(problems, i, settings.prompts_per_step, settings.seed)]


def columns_of(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Return problems as rows of a TRL data set, without prompts."""
    return [{key: value for key, value in asdict(p).items() if key in ("question", "answer")} for p in problems]
