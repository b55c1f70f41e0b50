"""The model card of a run: what it was trained on and how, whether it got better, how to use it, where it ends."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from mathgrpo.config import Recipe, recipe_to_toml
from mathgrpo.config.recipe import Section
from mathgrpo.evaluation.run_verdict import SUFFIXES
from mathgrpo.formats import Format, get_format
from mathgrpo.formats.chat import prompt_messages, prompt_text
from mathgrpo.models.locate import adapter_base, locate_model, run_of
from mathgrpo.publishing.source import Source, started_with
from mathgrpo.report.outcome import before_after_tables, run_verdicts
from mathgrpo.report.read_run import RunData
from mathgrpo.runs.run_info import gain_line

LICENSE_OF_STARTER = "apache-2.0"
SET_NAMES = {"heldout": "held-out problems", "templates": "problems of held-out templates"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
EXAMPLE = "A shop sells pens in boxes of 12. Ana buys 3 boxes and gives 5 pens away. How many pens has she left?"
LOCAL = re.compile(r"(?<![\w.~/\\-])(?:(?:~|\.{1,2})?/|[A-Za-z]:\\)[\w.~-]\S*")


def model_card(
    source: Source, run: RunData, repo: str, license_id: str, *, tokenizer: Any, has_curves: bool, kind: str
) -> str:
    """Return README.md: metadata that the hub reads, and the card in Markdown.

    tokenizer: the published one, by whose chat template the example asks.
    license_id: a hub licence id; empty: the starter's own where it is the base, else none is claimed.
    """
    run = as_of(run, source.step)
    metadata = card_data(source, run, license_id, kind).to_yaml()
    parts = [
        f"---\n{metadata}\n---",
        f"# {source.name}",
        _introduction(source, kind),
        "## Did it get better?\n\n" + _verdict(run, has_curves),
        "## How to use it\n\n" + _usage(source, repo, kind, tokenizer),
        "## How it was trained\n\n" + _training(source, run),
        "## Limits\n\n" + _limits(source, run, license_id),
    ]
    return "\n\n".join(parts) + "\n"


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


def card_data(source: Source, run: RunData, license_id: str, kind: str) -> Any:
    """Return the card's metadata; what is only a folder on this machine is not named in it."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe, results = source.recipe, []
    for verdict in run_verdicts(run):
        compared = verdict.comparison
        results.append(
            EvalResult(
                task_type="text-generation",
                task_name="Solving math word problems",
                dataset_type=recipe.problems.source if hub_id(recipe.problems.source) else "mathgrpo-problems",
                dataset_name=f"{data_name(recipe)}, {verdict.problem_set}",
                dataset_config=recipe.problems.subset or None,
                dataset_split=recipe.problems.heldout_split,
                dataset_args={"problems": compared.problems},
                metric_type="accuracy",
                metric_name=f"accuracy, {compared.metric}, in %, with 95 % interval of the gain in points",
                metric_value=round(100 * compared.after, 2),
                metric_args={
                    "before": round(100 * compared.before, 2),
                    "gain": [round(100 * compared.low, 2), round(100 * compared.high, 2)],
                    "p": float(f"{compared.p:.3g}"),
                },
            )
        )
    return ModelCardData(
        language="en",
        license=chosen_license(source, license_id) or None,
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        base_model=next(filter(hub_id, (source.base or "", recipe.model.path)), None),
        datasets=recipe.problems.source if hub_id(recipe.problems.source) else None,
        tags=["sft" if source.supervised else "grpo", "math", "reasoning", "mathgrpo"],
        model_name=source.name,
        eval_results=results or None,
    )


def chosen_license(source: Source, license_id: str) -> str:
    """Return the licence to claim, "" for none: the base model's licence is not ours to guess."""
    return license_id or (LICENSE_OF_STARTER if started_from(source) == "starter" else "")


def started_from(source: Source) -> str:
    """Return the model that the run began with, by a name that means something elsewhere; "" for a new one.

    A run that began with another run's model is followed back to the first.
    """
    path, seen = started_with(source.run) if source.run is not None else source.location, 0
    while path and Path(path).expanduser().is_dir() and seen < 20:
        folder, seen = Path(path).expanduser().resolve(), seen + 1
        run = run_of(folder)
        base = adapter_base(locate_model(path)) if run is None else None
        if run is None and base is None:
            return folder.name
        path = base or started_with(run)  # type: ignore[arg-type]
    return path


def data_name(recipe: Recipe) -> str:
    """Return what the problems are called on a card: never where they lie on this machine.

    Example:
        >>> data_name(Recipe())
        'problems made by mathgrpo (largest number 100)'
    """
    problems = recipe.problems
    if problems.source == "generated":
        return f"problems made by mathgrpo (largest number {problems.max_value})"
    return problems.source if hub_id(problems.source) else Path(problems.source).name


def public_recipe(recipe: Section) -> str:
    """Return a recipe as TOML without what is only true of this machine: [run] but for its seed, servers, paths."""
    text = recipe_to_toml(recipe)
    blocks = [block for block in text.split("\n\n") if not block.startswith(("[run]", "[rollout.vllm]"))]
    seed = getattr(getattr(recipe, "run", None), "seed", None)
    kept = "\n\n".join(([] if seed is None else [f"[run]\nseed = {seed}"]) + blocks)
    return re.sub(r'"([^"\n]*)"', lambda found: f'"{without_folders(found[1])}"', kept)


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


def _introduction(source: Source, kind: str) -> str:
    recipe = source.recipe
    what = "LoRA adapter" if kind == "adapter" else "language model"
    how = "an adapter, merged into full-precision weights" if source.base and kind != "adapter" else "all weights"
    how = "an adapter" if kind == "adapter" else how
    quantised = ", over 4-bit weights (NF4)" if recipe.model.quantization == "nf4" else ""
    method = "on worked solutions (supervised)" if source.supervised else "with GRPO"
    base = f"`{started_from(source)}`" if started_from(source) else "new weights"
    return (
        f"A {what} that reasons about maths in words. It was trained {method} from {base} "
        f"({how}{quantised}) on {data_name(recipe)}, with mathgrpo."
    )


def _verdict(run: RunData, has_curves: bool) -> str:
    verdicts = run_verdicts(run)
    if not verdicts:
        missing = "Not known: there is no evaluation before training and of these weights to compare."
        return "\n".join([missing, *_after_lines(run)])
    lines = [line for v in verdicts for line in (f"- {v.line}", f"  - {gain_line(v.parts).strip()}")]
    lines += ["", "Paired on the same problems, none of which was trained on; " + verdicts[0].comparison.method + "."]
    for table in before_after_tables(run):
        lines += ["", f"| {table['title']} | before | after | change |", "|---|---|---|---|"]
        for row in table["rows"]:
            lines.append(f"| {row['label']} ({row['kind']}) | {row['before']} | {row['after']} | {row['change']} |")
    return "\n".join(lines + (["", "![Curves of the run](curves.png)"] if has_curves else []))


def _after_lines(run: RunData) -> list[str]:
    """Return what is known of a model that was only evaluated after training."""
    lines = []
    for problem_set, suffix in SUFFIXES.items():
        if evaluation := run.evaluations.get(f"after{suffix}"):
            summary = evaluation.summary()
            low, high = 100 * summary["accuracy_low"], 100 * summary["accuracy_high"]
            lines.append(
                f"- After training: {100 * summary['accuracy']:.1f} % of {summary['problems']:,} "
                f"{SET_NAMES[problem_set]} solved, 95 % interval [{low:.1f}, {high:.1f}]."
            )
    return lines and ["", *lines]


def _usage(source: Source, repo: str, kind: str, tokenizer: Any) -> str:
    fmt = get_format(source.recipe.format.name)
    if fmt.leaky:
        return "Its prompts show a worked solution, so it answers nothing by itself: a model for studying that setting."
    load = "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    load += f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n'
    load += f'model = AutoModelForCausalLM.from_pretrained("{repo}")' + (
        "  # with peft installed\n" if kind == "adapter" else "\n"
    )
    return (
        f"It was trained with this system prompt and answers in this form; without them it is another model.\n\n"
        f"```python\n{load}{_inputs(tokenizer, fmt)}"
        f"output = model.generate(**inputs, max_new_tokens={source.recipe.rollout.max_new_tokens}, do_sample=False)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))\n```\n\n'
        f'Or: `mathgrpo solve {repo} --format {fmt.name} "{EXAMPLE}"`'
    )


def _inputs(tokenizer: Any, fmt: Format) -> str:
    """Return the lines of the example that make its prompt, the one that evaluation and `mathgrpo solve` give it."""
    text, messages = prompt_text(tokenizer, EXAMPLE, fmt), prompt_messages(EXAMPLE, fmt)
    if not tokenizer.chat_template:
        return f'prompt = {text!r}\ninputs = tokenizer(prompt, return_tensors="pt")\n'
    try:
        told = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:  # such as Gemma's: it takes no system turn
        told = ""
    if told != text:
        messages = [{"role": "user", "content": "\n\n".join(turn["content"].strip() for turn in messages)}]
    lines = "\n".join(f"    {message!r}," for message in messages)
    return (
        f"messages = [\n{lines}\n]\n"
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
    )


def _training(source: Source, run: RunData) -> str:
    info = run.info
    versions = ", ".join(f"{name} {version}" for name, version in dict(info.get("versions", {})).items())
    steps = f"{info.get('steps_done', run.last_step)} steps"
    return (
        f"{steps} on {info.get('device', 'an unknown device')}; {versions}. The whole recipe, for "
        f"`mathgrpo {'sft' if source.supervised else 'train'} FILE`:\n\n"
        f"```toml\n{public_recipe(source.supervised or source.recipe).strip()}\n```"
    )


def _limits(source: Source, run: RunData, license_id: str) -> str:
    lines = [
        f"- Trained on {data_name(source.recipe)} only, with one seed ({source.recipe.run.seed}): other kinds of "
        "problem and other seeds may go otherwise.",
        "- Fluent reasoning is no proof: check every answer that matters.",
    ]
    for verdict in run_verdicts(run):
        if not verdict.comparison.significant:
            lines.append(f"- No significant change on {SET_NAMES[verdict.problem_set]}, {verdict.comparison.metric}.")
    if source.recipe.model.quantization != "none":
        lines.append("- The numbers above are the 4-bit model's; what is published is its full-precision counterpart.")
    lines += [f"- {without_folders(str(note))}" for note in info_notes(run)]
    if not chosen_license(source, license_id):
        lines.append("- No licence is named here: that of the base model and of the data apply.")
    return "\n".join(lines)


def info_notes(run: RunData) -> list[str]:
    """Return what the run noted of itself that a user of the model should know."""
    return [str(note) for note in run.info.get("notes", []) if "adapter" in str(note) or "solution" in str(note)]
