"""Whether an export is the model it was made from: log-probabilities of the same texts, and held-out accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathgrpo.config import Recipe
from mathgrpo.errors import UserError
from mathgrpo.evaluation import compare, evaluate
from mathgrpo.evaluation.compare import Comparison
from mathgrpo.evaluation.records import ANSWER, Evaluation, ProblemRecord, counted_by
from mathgrpo.formats import Format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.models import Policy
from mathgrpo.problems import load_problem_sets
from mathgrpo.problems.traced import load_worked_sets
from mathgrpo.publishing.source import Source
from mathgrpo.rewards import RewardSuite, build_suite
from mathgrpo.rewards.criterion import reward_named
from mathgrpo.rollout import build_engine
from mathgrpo.text import number
from mathgrpo.types import Problem

NUM_PROBES = 8
PROBE_TOKENS = 64
"""Completion tokens scored of one probe, at most."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}
"""Mean difference of token log-probabilities, in nats, that rounding weights to a precision explains."""
FALLBACK = (("Tom has 3 apples and buys 4 more. How many has he?", "7"), ("What is 6 times 7?", "42"))
"""Probes of a model that no evaluation is known of: question and answer."""


Probe = tuple[tuple[int, ...], tuple[int, ...]]
"""A prompt and a completion of it as token ids."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two models' log-probabilities of the same tokens are apart, in nats."""

    mean: float
    largest: float
    tokens: int


def make_probes(tokenizer: Any, fmt: Format, evaluation: Evaluation | None) -> list[Probe]:
    """Return texts to score: the model's own completions of held-out problems, or written ones where none are known."""
    if evaluation is not None:
        pairs = [(Problem(r.question, r.gold), r.greedy.text) for r in evaluation.records[:NUM_PROBES]]
    else:
        pairs = [(Problem(q, a), fmt.write(f"The answer is {a}.", a)) for q, a in FALLBACK]
    texts = [
        (encode_prompt(tokenizer, problem, fmt), tokenizer(text, add_special_tokens=False)) for problem, text in pairs
    ]
    return [(prompt.ids, tuple(found["input_ids"][:PROBE_TOKENS])) for prompt, found in texts if found["input_ids"]]


@torch.no_grad()
def score(model: Any, probes: Sequence[Probe]) -> Tensor:
    """Return log p(token | all before it) of every completion token of every probe, float32 [tokens].

    One plain forward pass a probe, outside autocast: the weights' own precision decides.
    """
    device = model.get_input_embeddings().weight.device
    found = []
    for prompt, completion in probes:
        ids = torch.tensor([[*prompt, *completion]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        found.append(torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu())
    return torch.cat(found)


def difference(one: Tensor, other: Tensor) -> Difference:
    """Return how far two models' scores of the same probes are apart."""
    gap = (one - other).abs()
    return Difference(float(gap.mean()), float(gap.max()), len(gap))


def require_same_scores(original: Tensor, exported: Tensor, dtype: torch.dtype) -> Difference:
    """Return how far the scores of an export are from those of its original.

    dtype: what the exported weights were rounded to.
    Raises: UserError when rounding does not explain it, or a score is not finite.
    """
    found = difference(original, exported)
    if not found.mean <= TOLERANCE[dtype]:
        raise UserError(
            f"export: the exported model is not the trained one: log-probabilities of the same {found.tokens} tokens "
            f"differ by {number(found.mean)} nats on average, rounding to {str(dtype).removeprefix('torch.')} explains "
            f"{TOLERANCE[dtype]:g}; nothing was exported; use --dtype float32 to see whether it is the rounding"
        )
    return found


def require_same_accuracy(
    policy: Policy, evaluation: Evaluation, fmt: Format, problems: int, source: Source
) -> Comparison:
    """Return the exported model's accuracy on the run's first held-out problems, paired with the run's own answers.

    source: where a reward decides on correct, it and the problems with the columns it needs are read again.
    Raises: UserError when it is significantly lower (exact McNemar test, p < 0.05), or what decides is not there.
    """
    records = evaluation.records[:problems]
    wanted, suite = [Problem(record.question, record.gold, template=record.template) for record in records], None
    settings = evaluation.settings
    if settings.correct != ANSWER:
        with _explained(settings.correct):
            suite, wanted = _judging(source.recipe, settings.correct, fmt), _read_again(source, records)
    again = evaluate(build_engine(policy), policy, wanted, fmt, max_new_tokens=settings.max_new_tokens, suite=suite)
    comparison = compare(Evaluation(records, settings), again)
    if comparison.significant and comparison.difference < 0:
        raise UserError(
            f"export: the exported model solves {100 * comparison.after:.1f} % of {comparison.problems} held-out "
            f"problems{evaluation.by}, the run's model {100 * comparison.before:.1f} %: broken on the way; nothing was "
            "exported; use --dtype float32, or --check 0 to export it all the same"
        )
    return comparison


def _judging(recipe: Recipe, correct: str, fmt: Format) -> RewardSuite:
    """Return the reward that decides, alone."""
    name = reward_named(correct)
    settings = {key: table for key, table in recipe.reward_settings.items() if key == name}
    return build_suite({name: 1.0}, fmt, settings, recipe.rollout.max_new_tokens, correct)


def _read_again(source: Source, records: Sequence[ProblemRecord]) -> list[Problem]:
    """Return the problems of some records with all their columns, which an evaluation does not keep."""
    section = source.recipe.problems
    sets = load_problem_sets(section) if source.supervised is None else load_worked_sets(section)
    by_id = {problem.id: problem for problem in (*sets.train, *sets.heldout, *sets.heldout_templates)}
    if not all(record.id in by_id for record in records):
        raise UserError(f"problems.source={section.source}: no longer has the run's held-out problems")
    return [by_id[record.id] for record in records]


@contextmanager
def _explained(correct: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(
            f"export: held-out problems cannot be solved again{counted_by(correct)}: {error}; nothing was exported; "
            "bring it back, or use --check 0"
        ) from error
