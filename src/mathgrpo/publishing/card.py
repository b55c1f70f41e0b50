"""The model card, of a recipe's run and of a script's: what it was trained on and how, what came of it, how to use it.

The words stand in templates/; here is what fills them in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import Section
from mathgrpo.evaluation.records import counted_by
from mathgrpo.evaluation.run_verdict import SUFFIXES, SetVerdict, verdicts_of
from mathgrpo.formats import format_of
from mathgrpo.formats.chat import prompt_messages
from mathgrpo.formats.format import Format
from mathgrpo.formats.rendering import conversation
from mathgrpo.models.locate import adapter_base, locate_model, run_of
from mathgrpo.publishing.source import Source, started_with
from mathgrpo.report.charts import Series, draw_intervals, draw_lines
from mathgrpo.report.curves import accuracy_by_step
from mathgrpo.report.outcome import before_after_tables
from mathgrpo.report.read_run import RunData
from mathgrpo.runs.run_folder import verdict_details

LICENSE_OF_STARTER = "apache-2.0"
SET_NAMES = {"heldout": "held-out problems", "templates": "problems of held-out templates"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
EXAMPLE = "A shop sells pens in boxes of 12. Ana buys 3 boxes and gives 5 pens away. How many pens has she left?"
LOCAL = re.compile(r"(?<![\w.~/\\-])(?:(?:~|\.{1,2})?/|[A-Za-z]:\\)[\w.~-]\S*")


def run_card(
    source: Source, run: RunData, repo: str, license_id: str, *, tokenizer: Any, has_curves: bool, kind: str
) -> str:
    """Return README.md of a recipe's run.

    tokenizer: the published one, by whose chat template the example asks.
    license_id: a hub licence id; empty: the starter's own where it is the base, else none is claimed.
    """
    run, recipe, claimed = as_of(run, source.step), source.recipe, chosen_license(source, license_id)
    adapter, fmt = kind == "adapter", format_of(recipe.format)
    verdicts = list(verdicts_of(run.evaluations).values())
    known = ((name, run.evaluations.get(f"after{SUFFIXES[problem_set]}")) for problem_set, name in SET_NAMES.items())
    metadata = _metadata(
        (source.base or "", recipe.model.path), recipe.problems.place, adapter,
        ["sft" if source.supervised else "grpo", "math", "reasoning", "mathgrpo"],
        language="en", license=claimed or None, model_name=source.name,
        eval_results=[_result(recipe, verdict) for verdict in verdicts] or None,
    )  # fmt: skip
    return _written(
        "run.md", metadata=metadata, source=source, run=run, recipe=recipe, fmt=fmt, repo=repo, license=claimed,
        adapter=adapter, has_curves=has_curves, data=data_name(recipe), started_from=started_from(source),
        verdicts=verdicts, details=verdict_details, set_names=SET_NAMES, tables=before_after_tables(run),
        after=[(name, found.summary(), found.by) for name, found in known if found],
        example=EXAMPLE, asking="" if fmt.leaky else asking_code(tokenizer, fmt),
        recipe_text=public_recipe(source.supervised or recipe).strip(), without_folders=without_folders,
        versions=", ".join(f"{package} {version}" for package, version in run.info.get("versions", {}).items()),
    )  # fmt: skip


def script_card(
    name: str, repo: str, settings: Mapping[str, object], *, base: str, dataset: str, adapter: bool, tags: Sequence[str]
) -> str:
    """Return README.md of a script's run. Its verdict is the script's to add: a trainer has measured rewards only.

    base, dataset: named where they are hub ids, never as folders of this machine.
    """
    trained = ("An adapter" if adapter else "A model") + " trained with GRPO"
    trained += (f" from {base}" if hub_id(base) else "") + (f" on {dataset}" if hub_id(dataset) else "")
    metadata = _metadata((base,), dataset, adapter, list(dict.fromkeys(["grpo", "mathgrpo", *tags])))
    return _written(
        "script.md", name=name, repo=repo, adapter=adapter, metadata=metadata, trained=trained, settings=settings
    )


def _written(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(values).strip() + "\n"


def _metadata(bases: Sequence[str], data: str, adapter: bool, tags: list[str], **more: Any) -> str:
    """Return what the hub reads, as YAML; of bases and data only what is a hub id is named."""
    from huggingface_hub import ModelCardData

    card_data: Any = ModelCardData
    return str(
        card_data(
            library_name="peft" if adapter else "transformers", pipeline_tag="text-generation", tags=tags,
            base_model=next(filter(hub_id, bases), None), datasets=data if hub_id(data) else None, **more,
        ).to_yaml()
    )  # fmt: skip


def _result(recipe: Recipe, verdict: SetVerdict) -> Any:
    from huggingface_hub import EvalResult

    compared, problems = verdict.comparison, recipe.problems
    return EvalResult(
        task_type="text-generation", task_name="Solving math word problems",
        dataset_type=problems.place if hub_id(problems.place) else "mathgrpo-problems",
        dataset_name=f"{data_name(recipe)}, {verdict.problem_set}", dataset_config=problems.subset or None,
        dataset_split=problems.heldout_split, dataset_args={"problems": compared.problems}, metric_type="accuracy",
        metric_name=f"accuracy{counted_by(compared.correct)}, {compared.metric}, in %, with 95 % interval of the gain "
        "in points",
        metric_value=round(100 * compared.after, 2),
        metric_args={
            "before": round(100 * compared.before, 2),
            "gain": [round(100 * compared.low, 2), round(100 * compared.high, 2)],
            "p": float(f"{compared.p:.3g}"),
        },
    )  # fmt: skip


def asking_code(tokenizer: Any, fmt: Format) -> str:
    """Return the lines of the example that make its prompt, the one that evaluation and `mathgrpo solve` give it."""
    shown = conversation(tokenizer, prompt_messages(EXAMPLE, fmt), fmt.chat_template_kwargs)
    if not tokenizer.chat_template:
        return f'prompt = {shown.text!r}\ninputs = tokenizer(prompt, return_tensors="pt")'
    lines = "\n".join(f"    {turn!r}," for turn in shown.turns)
    told = "".join(f", {name}={value!r}" for name, value in fmt.chat_template_kwargs.items())
    return (
        f"messages = [\n{lines}\n]\ninputs = tokenizer.apply_chat_template(\n"
        f'    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{told}\n)'
    )


def as_of(run: RunData, step: int | None) -> RunData:
    """Return a run as if it had ended after a step: numbers of other weights are no part of a card.

    Its evaluation after that step, if it made one, is then the one "after" training.
    """
    if step == run.info.get("steps_done") and "after" in run.evaluations:
        return run
    evaluations = {name: found for name, found in run.evaluations.items() if not name.startswith("after")}
    for suffix in SUFFIXES.values():
        if found := evaluations.get(f"step-{step}{suffix}"):
            evaluations[f"after{suffix}"] = found
    return replace(run, evaluations=evaluations, info={**run.info, "steps_done": step})


def chosen_license(source: Source, license_id: str) -> str:
    """Return the licence to claim, "" for none: the base model's licence is not ours to guess."""
    return license_id or (LICENSE_OF_STARTER if started_from(source) == "starter" else "")


def started_from(source: Source) -> str:
    """Return the model that the run began with, by a name that means something elsewhere; "" for a new one.

    A run that began with another run's model is followed back to the first.
    """
    path = started_with(source.run) if source.run is not None else source.location
    for _ in range(20):  # an adapter may name itself
        folder = Path(path).expanduser()
        if not path or not folder.is_dir():
            break
        run = run_of(folder)
        base = adapter_base(locate_model(path)) if run is None else started_with(run)
        if base is None:
            return folder.resolve().name
        path = base
    return path


def data_name(recipe: Recipe) -> str:
    """Return what the problems are called on a card: never where they lie on this machine.

    Example:
        >>> data_name(Recipe())
        'problems made by mathgrpo (largest number 100)'
    """
    problems = recipe.problems
    if problems.place == "generated":
        return f"problems made by mathgrpo (largest number {problems.max_value})"
    return problems.place if hub_id(problems.place) else Path(problems.source).name


def public_recipe(recipe: Section) -> str:
    """Return a recipe as TOML without what is only true of this machine: [run] but for its seed, servers, paths."""
    data = recipe.model_dump(exclude_none=True)
    data.get("rollout", {}).pop("vllm", None)
    data |= {"run": {"seed": data.pop("run")["seed"]}}
    return re.sub(r'"([^"\n]*)"', lambda found: f'"{without_folders(found[1])}"', tomli_w.dumps(data))


def without_folders(text: str) -> str:
    """Return a text in which every local path is its last part.

    Example:
        >>> without_folders("/home/ana/runs/x/my.py:vowels"), without_folders("openai/gsm8k")
        ('my.py:vowels', 'openai/gsm8k')
    """
    return LOCAL.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)


def hub_id(name: str) -> bool:
    """Return whether a name is a hub id, not a folder that is there."""
    return bool(HUB_ID.fullmatch(name)) and not name.startswith(".") and not Path(name).exists()


PANELS = {
    "reward": "reward, mean of a step",
    "completions/mean_length": "completion length, tokens",
    "grad_norm": "gradient norm",
}
STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "axes.grid": True,
         "axes.grid.axis": "y", "grid.alpha": 0.3, "xtick.labelsize": 8, "ytick.labelsize": 8}  # fmt: skip


def draw_curves(run: RunData, path: Path) -> bool:
    """Write a PNG of held-out accuracy (with 95 % Wilson intervals), reward, length and gradient norm over the steps.

    Returns whether there was anything to draw.
    """
    import matplotlib
    from matplotlib.figure import Figure

    accuracy = accuracy_by_step(run, "")
    panels: list[tuple[str, Callable[[Any], None]]] = []
    if accuracy.points:
        by = next(iter(run.evaluations.values())).by
        panels.append((f"held-out accuracy{by}, with 95 % interval", partial(draw_intervals, series=[accuracy])))
    for name, title in PANELS.items():
        if name in run.metrics:
            panels.append((title, partial(draw_lines, series=[Series(title, run.metrics[name])])))
    if not panels:
        return False
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.4), dpi=110, layout="constrained")
        for i, (title, draw) in enumerate(panels):
            draw(figure.add_subplot(2, 2, i + 1, title=title))
        figure.supxlabel("step", fontsize=9)
        figure.savefig(path, metadata={"Software": None})  # the same bytes for the same run
    return True
