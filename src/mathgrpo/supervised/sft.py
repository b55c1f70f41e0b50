"""The supervised run: worked solutions in, a run folder with a model that follows the format out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mathgrpo.answers.prompt_check import require_answerable
from mathgrpo.config.recipe import ModelSection
from mathgrpo.config.sft_recipe import SftRecipe
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluate, write_evaluation
from mathgrpo.formats import Format, format_of
from mathgrpo.models import Policy, load_policy, policy_from, resolve_device
from mathgrpo.models.load_policy import compute_dtype
from mathgrpo.models.shape import count_parameters
from mathgrpo.problems import ProblemSets
from mathgrpo.problems.known_columns import WORKED
from mathgrpo.problems.traced import load_worked_sets
from mathgrpo.rewards import RewardSuite, build_suite
from mathgrpo.rewards.criterion import reward_named
from mathgrpo.rewards.pre_run_check import require_judged
from mathgrpo.rollout import build_engine
from mathgrpo.runs.checkpoint import save_model
from mathgrpo.runs.interrupt import Interrupted, StopRequests
from mathgrpo.runs.run_folder import (
    METRICS,
    append_lines,
    choose_run_folder,
    create_run_folder,
    finished_info,
    start_info,
    write_info,
)
from mathgrpo.supervised.new_model import build_model, train_tokenizer, whole_words
from mathgrpo.supervised.sft_steps import GUESS, StepLine, supervised_steps
from mathgrpo.training.prepare import require_prompts_fit
from mathgrpo.types import Problem


def run_sft(recipe: SftRecipe, recipe_name: str, command: Sequence[str] = ()) -> Path:
    """Train on worked solutions and return the run folder; its last checkpoint loads with from_pretrained.

    Raises: UserError for whatever is wrong, before the first step; Interrupted after Ctrl-C or SIGTERM, with the model
    as it was saved.
    """
    started = datetime.now().astimezone()
    folder = choose_run_folder(recipe.run, recipe_name, started, resumable=False)
    fmt, device = format_of(recipe.format), resolve_device(recipe.run.device)
    sets = load_worked_sets(recipe.problems)
    _require_solutions(sets.train, recipe)
    torch.manual_seed(recipe.run.seed)
    policy = _policy(recipe, sets.train, fmt, device)
    require_answerable(policy.tokenizer, fmt)
    require_prompts_fit((*sets.heldout, *sets.heldout_templates), policy, fmt, recipe.training.max_new_tokens)
    suite = _judging(sets, fmt, recipe.training.max_new_tokens) if recipe.training.evaluate else None
    notes = [*sets.notes, *_format_notes(sets.train, recipe.format.name)]
    info = start_info(policy, folder, recipe_name, command, started, notes)
    _require_room(folder, policy)
    create_run_folder(folder, recipe, info)
    print(f"run folder  {folder}\nmodel       {policy.model.num_parameters():,} parameters on {device}", flush=True)
    print("".join(f"note        {note}\n" for note in notes), end="", flush=True)
    _to_the_end(policy, recipe, sets, fmt, folder, info, suite)
    return folder


def _judging(sets: ProblemSets, fmt: Format, max_new_tokens: int) -> RewardSuite | None:
    """Return the reward that said what is correct in the traces to learn from; None where that was the gold answer.

    Raises: UserError when it does not load, or the traces lack the columns it needs.
    """
    settings = [problem.columns.get("settings") for problem in sets.train]
    named = {str(each["correct"]) for each in settings if isinstance(each, Mapping) and "correct" in each}
    if len(named) != 1:
        return None
    (correct,) = named
    suite = build_suite({reward_named(correct): 1.0}, fmt, None, max_new_tokens, correct)
    require_judged(suite, sets.heldout)
    return suite


def _to_the_end(
    policy: Policy,
    recipe: SftRecipe,
    sets: ProblemSets,
    fmt: Format,
    folder: Path,
    info: dict[str, Any],
    suite: RewardSuite | None,
) -> None:
    """Train and evaluate, and leave run.json in order however that ends."""
    step, status = 0, "failed"
    try:
        with StopRequests() as stop:
            step = _train(policy, recipe, sets.train, fmt, folder, stop)
            _require_no_stop(stop)
            if recipe.training.evaluate:
                _evaluate(policy, recipe, sets, fmt, folder, stop, suite)
        status = "finished"
    except Interrupted as request:
        status = "interrupted"
        message = (
            f"stopped after step {step}; the model so far is in {folder}; go on from it with --set model.path={folder}"
        )
        raise Interrupted(request.signum, message) from None
    finally:
        # The error itself matters more than a disk that is too full to note it down.
        with suppress(UserError) if status == "failed" else nullcontext():
            write_info(folder, finished_info(info, status, step))


def _require_no_stop(stop: StopRequests) -> None:
    if stop.received:
        raise Interrupted(stop.received)


def _require_room(folder: Path, policy: Policy) -> None:
    """Raise UserError unless the disk has room, as far as it tells now, for the trained model in float32."""
    place = next((each for each in folder.absolute().parents if each.is_dir()), Path())
    needed, free = 4 * count_parameters(policy.model).trainable, shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"run.output_dir={folder.parent}: the trained model needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are "
            "free; free the disk or choose another"
        )


def _require_solutions(train: tuple[Problem, ...], recipe: SftRecipe) -> None:
    if not any(problem.solution for problem in train):
        raise UserError(
            f"problems.source={recipe.problems.source}: no row has a worked solution; "
            f"name the column that has it with --set problems.columns.solution={_likely(train)}"
        )


def _likely(train: Sequence[Problem]) -> str:
    """Return the column that holds worked solutions by its name, else a place for one."""
    return next((name for name in WORKED if train and name in train[0].columns), "COLUMN")


def _format_notes(train: Sequence[Problem], name: str) -> list[str]:
    """Return a note when the solutions are traces that were written in another response format than is taught."""
    settings = [problem.columns.get("settings") for problem in train]
    others = {
        str(each["format"]) for each in settings if isinstance(each, Mapping) and each.get("format", name) != name
    }
    if not others:
        return []
    return [f"the traces were written in format {', '.join(sorted(others))}, this run teaches {name} (format.name)"]


def _policy(recipe: SftRecipe, train: tuple[Problem, ...], fmt: Format, device: str) -> Policy:
    """Return the model to train: the one named, or a new one with a tokenizer for these problems."""
    if recipe.model.path:
        return load_policy(ModelSection(path=recipe.model.path, lora=recipe.model.lora), device, train=True)
    if recipe.model.lora is not None:
        raise UserError("model.lora: an adapter needs a model to sit on; name one with model.path")
    texts = [text for problem in train[:50_000] for text in (problem.question, problem.solution or "", GUESS)]
    tokenizer = train_tokenizer(texts, whole_words(fmt), recipe.model.new.vocab_size)
    model = build_model(recipe.model.new, tokenizer, recipe.run.seed).to(device)
    return policy_from(model, tokenizer, device=device, dtype=compute_dtype("auto", device), name="new")


def _train(
    policy: Policy, recipe: SftRecipe, train: tuple[Problem, ...], fmt: Format, folder: Path, stop: StopRequests
) -> int:
    """Take all steps, or those until a stop is asked for; save the model; return the steps done."""
    every, recent, step = recipe.training.checkpoint_every, list[StepLine](), 0
    for line in supervised_steps(policy, recipe, train, fmt):
        step, recent = line.step, [*recent, line]
        if len(recent) == recipe.training.log_every:
            _log(recent, folder)
            recent = []
        if stop.received:
            break
        if every and step % every == 0:
            save_model(folder, policy, step)
    if recent:
        _log(recent, folder)
    save_model(folder, policy, step)
    return step


def _log(lines: list[StepLine], folder: Path) -> None:
    """Write a metrics line over some steps and show it."""
    last, tokens = lines[-1], sum(line.tokens_in_step for line in lines)
    loss, speed = sum(line.loss for line in lines) / len(lines), tokens / sum(line.seconds for line in lines)
    row = {"step": last.step, "tokens": last.tokens, "loss": loss, "learning_rate_factor": last.learning_rate_factor,
           "tokens_per_s": speed}  # fmt: skip
    append_lines(folder / METRICS, [row])
    print(f"step {last.step}  tokens {last.tokens:,}  loss {loss:.4f}  {speed:,.0f} tokens/s", flush=True)


def _evaluate(
    policy: Policy,
    recipe: SftRecipe,
    sets: ProblemSets,
    fmt: Format,
    folder: Path,
    stop: StopRequests,
    suite: RewardSuite | None,
) -> None:
    """Judge the trained model on every held-out set and write the results to the run folder."""
    policy.model.eval()
    engine = build_engine(policy)
    for name, problems in (("after", sets.heldout), ("after-templates", sets.heldout_templates)):
        if not problems:
            continue
        evaluation = evaluate(
            engine, policy, problems, fmt, max_new_tokens=recipe.training.max_new_tokens, seed=recipe.run.seed,
            suite=suite, on_progress=lambda done, total: _require_no_stop(stop),
        )  # fmt: skip
        write_evaluation(evaluation, folder, name)
        summary, by = evaluation.summary(), evaluation.by
        low, high = 100 * summary["accuracy_low"], 100 * summary["accuracy_high"]
        print(
            f"evaluation {name}: accuracy{by} {100 * summary['accuracy']:.1f} %, 95 % interval [{low:.1f}, {high:.1f}]"
            f", working shown {100 * summary['worked_rate']:.0f} %, {len(problems):,} problems",
            flush=True,
        )
