"""`mathgrpo train RECIPE --tiny`: the run a recipe describes, on this machine's CPU, in seconds.

Format, rewards, adapter, quantisation, schedule, optimizer, loss and trackers are the recipe's. The model is the
starter or a freshly built one of the same architecture, the problems are generated, and there are few of everything.
What differs goes into the recipe's notes, a line each, so that it is shown and stays with the run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import require_possible, validated
from mathgrpo.config.overrides import parse_override
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.config.tiny_recipe import MARK, smaller
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.problems import load_problem_sets
from mathgrpo.rollout.vllm.versions import find_python
from mathgrpo.supervised.new_model import architecture_of, tiny_model

Changes = dict[str, tuple[Any, str]]
"""Setting -> its value here, and why where that does not go without saying."""


def tiny_run(recipe: Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe to run instead, with what is different in its notes; what its overrides have set stands.

    No model gets better in four steps: such a run shows that everything works, not that it helps.
    """
    changes = {name: (value, "") for name, value in smaller(recipe).items()}
    for missing in (_own_model, _without_bitsandbytes, _without_vllm, _without_trackers):
        changes |= missing(recipe)
    given = [parse_override(override)[0] for override in overrides]
    data, notes = recipe.model_dump(exclude_none=True), []
    for name, (value, reason) in changes.items():
        *sections, key = name.split(".")
        table = data
        for section in sections:
            table = table[section]
        if table[key] != value and not any(f"{each}.".startswith(f"{name}.") for each in given):
            notes.append(f"{MARK}{name} = {_shown(value)} (recipe: {_shown(table[key])}){reason}")
            table[key] = value
    return require_possible(validated(Recipe, data)).with_notes(notes)


def _own_model(recipe: Recipe) -> Changes:
    """Put the starter where it is of the architecture and writes the format, else a model made for both."""
    path, fmt = recipe.model.path, get_format(recipe.format.name)
    architecture, no_code = architecture_of(path), ("", "")
    own_template = {"format.chat_template_kwargs": ({}, "; they are of the recipe's model"),
                    "model.trust_remote_code": no_code}  # fmt: skip
    if path == "starter" or (architecture == "qwen2" and fmt.name == "xml"):
        return {"model.path": ("starter", "")} | own_template
    small = {name.removeprefix("problems."): value for name, value in smaller(recipe).items() if "problems." in name}
    own = str(tiny_model(architecture, fmt, load_problem_sets(ProblemsSection(**small)).train))
    reason = f"; a new {architecture} model that half knows the training problems by heart"
    return {"model.path": (own, reason)} | own_template


def _without_bitsandbytes(recipe: Recipe) -> Changes:
    if recipe.model.quantization == "none" or importlib.util.find_spec("bitsandbytes") is not None:
        return {}
    return {"model.quantization": ("none", "; 4 bits need bitsandbytes: pip install 'mathgrpo[qlora]'")}


def _without_vllm(recipe: Recipe) -> Changes:
    """Keep vLLM where it can run on this CPU; the engines here sample otherwise."""
    if recipe.rollout.vllm is None:
        return {}
    of_cpu_build: dict[str, Any] = {"sleep": False, "mode": "server"}
    try:
        if not recipe.rollout.vllm.url:
            find_python(recipe.rollout.vllm.model_copy(update=of_cpu_build))
    except UserError as error:
        return {"rollout.vllm": (None, f"; {str(error).removeprefix('rollout.vllm: ')}")}
    return {f"rollout.vllm.{name}": (value, "") for name, value in of_cpu_build.items()}


def _without_trackers(recipe: Recipe) -> Changes:
    there = tuple(name for name in recipe.training.trackers if importlib.util.find_spec(name) is not None)
    missing = ",".join(name for name in recipe.training.trackers if name not in there)
    return {"training.trackers": (there, f"; not installed: pip install 'mathgrpo[{missing}]'")}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or "none"
