"""`mathgrpo train RECIPE --tiny`: the run a recipe describes, on this machine's CPU, in seconds.

Format, rewards, adapter, quantisation, schedule, optimizer, loss and trackers are the recipe's. The model is the
starter or a freshly built one of the same architecture, the problems are generated, and there are few of everything.
What differs goes into the recipe's notes, a line each, so that it is shown and stays with the run.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from mathgrpo.config import Recipe
from mathgrpo.config.tiny_recipe import MARK, differences, smaller
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.problems import load_problem_sets
from mathgrpo.rollout.vllm.versions import find_python
from mathgrpo.supervised.new_model import architecture_of, tiny_model


def tiny_run(recipe: Recipe) -> Recipe:
    """Return the recipe to run instead, with what is different in its notes.

    No model gets better in four steps: such a run shows that everything works, not that it helps.
    """
    small, reasons = smaller(recipe), dict[str, str]()
    for change in (_own_model, _without_bitsandbytes, _without_vllm, _without_trackers):
        small = change(small, reasons)
    lines = [MARK + line + reasons.get(line.partition(" = ")[0], "") for line in differences(recipe, small)]
    return small.with_notes(lines)


def _own_model(recipe: Recipe, reasons: dict[str, str]) -> Recipe:
    """Put the starter where it is of the architecture and writes the format, else a model made for both."""
    path, fmt = recipe.model.path, get_format(recipe.format.name)
    architecture = architecture_of(path)
    if path == "starter" or (architecture == "qwen2" and fmt.name == "xml"):
        own = "starter"
    else:
        own = str(tiny_model(architecture, fmt, load_problem_sets(recipe.problems).train))
        reasons["model.path"] = f"; a new {architecture} model that half knows the training problems by heart"
    return _with(recipe, "model", path=own, trust_remote_code="")


def _without_bitsandbytes(recipe: Recipe, reasons: dict[str, str]) -> Recipe:
    if recipe.model.quantization == "none" or importlib.util.find_spec("bitsandbytes") is not None:
        return recipe
    reasons["model.quantization"] = "; 4 bits need bitsandbytes: pip install 'mathgrpo[qlora]'"
    return _with(recipe, "model", quantization="none")


def _without_vllm(recipe: Recipe, reasons: dict[str, str]) -> Recipe:
    """Keep vLLM where it can run on this CPU; the engines here sample otherwise."""
    vllm = recipe.rollout.vllm
    if vllm is None:
        return recipe
    vllm = vllm.model_copy(update={"sleep": False, "mode": "server"})  # what its CPU build can do
    try:
        if not vllm.url:
            find_python(vllm)
    except UserError as error:
        reasons["rollout.vllm"] = f"; {str(error).removeprefix('rollout.vllm: ')}"
        return _with(recipe, "rollout", vllm=None)
    return _with(recipe, "rollout", vllm=vllm)


def _without_trackers(recipe: Recipe, reasons: dict[str, str]) -> Recipe:
    named = recipe.training.trackers
    missing = [name for name in named if importlib.util.find_spec(name) is None]
    if not missing:
        return recipe
    reasons["training.trackers"] = f"; not installed: pip install 'mathgrpo[{','.join(missing)}]'"
    return _with(recipe, "training", trackers=tuple(name for name in named if name not in missing))


def _with(recipe: Recipe, section: str, **values: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})
