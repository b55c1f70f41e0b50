"""Everything of a run that can fail before step 0: problems, golds, rewards, model, prompts, engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mathgrpo.answers.gold_check import require_golds
from mathgrpo.answers.prompt_check import date_note, require_answerable
from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import require_possible
from mathgrpo.config.machinery import Machinery, machinery_of
from mathgrpo.config.recipe import RolloutSection, VllmSection
from mathgrpo.distributed import SINGLE, World
from mathgrpo.errors import UserError, named
from mathgrpo.formats import Format, format_of
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.hardware.device_memory import bound_kernel_caches, keep_freed_memory
from mathgrpo.hardware.precision import cpu_precision
from mathgrpo.models import Policy, load_policy, resolve_device
from mathgrpo.models.load_policy import compute_dtype
from mathgrpo.models.locate import locate_model
from mathgrpo.models.policy import room_remedy
from mathgrpo.models.settled_rope import settle_rope
from mathgrpo.models.shape import model_sizes, sizes_ahead
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.problems import ProblemSets, load_problem_sets
from mathgrpo.rewards import RewardSuite, recipe_suite
from mathgrpo.rewards.criterion import criterion_note
from mathgrpo.rewards.pre_run_check import checked_rewards, grades_golds, require_judged
from mathgrpo.rollout import Engine, build_engine
from mathgrpo.training.memory_plan import MemoryPlan, plan_memory, require_fit, require_room
from mathgrpo.training.together import own_bytes, own_part, require_shareable
from mathgrpo.types import Problem
from mathgrpo.update import Reference, build_reference
from mathgrpo.update.layout_trial import unshared_reason

LEAKY_NOTE = "the format shows every solution and answer in the prompt: accuracy here measures copying, not reasoning"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready for its first step.

    Attributes:
        recipe: with model.dtype settled where it was "auto" on a CPU.
        longest_prompt: tokens of the longest prompt of all problem sets.
        machinery: what computes it.
        memory: how it uses its device's memory; None for a model that does not say its shape.
        precision: why the precision is what it is, where it was measured.
        audited: how the rewards stand up to an audit, in a line.
        reference: the policy before training, None without a KL term.
        world: the processes that run it together.
        judged: held-out problems that are judged otherwise than the others.
    """

    recipe: Recipe
    problems: ProblemSets
    fmt: Format
    suite: RewardSuite
    policy: Policy
    engine: Engine
    optimizer: torch.optim.Optimizer
    reference: Reference | None
    longest_prompt: int
    machinery: Machinery
    memory: MemoryPlan | None
    precision: str = ""
    audited: str = ""
    world: World = SINGLE
    judged: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the run should know about how it was set up, one line each."""
        counted = criterion_note(self.recipe.evaluation.correct, self.suite)
        more = (LEAKY_NOTE if self.fmt.leaky else "", counted, *self.judged, self.precision, self._rope_note,
                date_note(self.policy.tokenizer, self.fmt))  # fmt: skip
        given = (*self.recipe.notes, *self.problems.notes)
        return (*given, *filter(None, more), self.audited, f"rollout engine {self.engine.name}: {self.engine.reason}")

    @property
    def _rope_note(self) -> str:
        longest, steady = self.longest_text, self.policy.steady_context
        if longest <= steady:
            return ""
        return f"texts of up to {longest:,} tokens: the rotary embedding is that of more than {steady:,} throughout"

    @property
    def longest_text(self) -> int:
        """Tokens of the longest prompt and the longest completion together, of rollouts and evaluations."""
        return self.longest_prompt + max(self.recipe.rollout.max_new_tokens, self.recipe.evaluation.max_new_tokens)

    @property
    def evaluation_tokens(self) -> int:
        """Tokens sampled at most in an evaluation."""
        return self.recipe.evaluation.max_new_tokens or self.recipe.rollout.max_new_tokens


def prepare(
    recipe: Recipe, checkpoint: Path | None = None, world: World = SINGLE, *, machinery: Machinery | None = None
) -> Prepared:
    """Return a run ready to start, with the weights of a checkpoint if one is given.

    machinery: what computes it, in place of what run.engine chooses.

    Raises: UserError for whatever is wrong with the recipe, its problems or its model.
    """
    require_possible(recipe)
    require_shareable(recipe, world.size)
    fmt = format_of(recipe.format)
    suite = recipe_suite(recipe, fmt)
    device = resolve_device(recipe.run.device)
    locate_model(recipe.model.path)  # a name with nothing behind it is told before problems are read
    _require_room(recipe, device, world)
    problems = load_problem_sets(recipe.problems)
    require_enough(problems.train, recipe.rollout)
    every = (*problems.train, *problems.heldout, *problems.heldout_templates)
    if grades_golds(suite):
        require_golds(every, fmt, recipe.problems.source)
    judged = [require_judged(suite, heldout) for heldout in (problems.heldout, problems.heldout_templates)]
    torch.manual_seed(recipe.run.seed)  # a fresh adapter is drawn from it
    bound_kernel_caches()
    recipe, precision = world.from_main(lambda: settle_precision(recipe, device))  # a measurement may differ
    if device == "cpu":
        keep_freed_memory()
    policy, reference = _models(recipe, device, checkpoint)
    max_new_tokens = max(recipe.rollout.max_new_tokens, recipe.evaluation.max_new_tokens)
    require_answerable(policy.tokenizer, fmt, problems.train[0])
    longest = require_prompts_fit(every, policy, fmt, max_new_tokens)
    settle_rope(policy.model, longest + max_new_tokens)
    audited = checked_rewards(
        suite,
        problems.train,
        lambda text: policy.tokenizer(text, add_special_tokens=False)["input_ids"],
        encode_prompt(policy.tokenizer, problems.train[0], fmt).opened,
    )
    machinery = machinery or machinery_of(recipe.run.engine)
    memory = planned_memory(recipe, policy, longest, world, machinery)
    engine = engine_of(policy, recipe.rollout.vllm, machinery, memory, longest + max_new_tokens)
    if machinery.shared_prompt:
        unshared_reason(policy.model, longest + max_new_tokens)  # remembered; what it refuses is told before step 0
    optimizer = build_optimizer(policy.model, recipe.optimizer, policy.compute_dtype, machinery=machinery)
    return Prepared(
        recipe, problems, fmt, suite, policy, engine, optimizer, reference, longest, machinery, memory, precision,
        audited, world, tuple(filter(None, judged)),
    )  # fmt: skip


def planned_memory(
    recipe: Recipe, policy: Policy, longest_prompt: int, world: World, machinery: Machinery
) -> MemoryPlan | None:
    """Return how a run uses its device's memory; None for a model that does not say its shape.

    Raises: UserError when the device has not enough.
    """
    sizes = model_sizes(policy.model)
    if sizes is None:
        return None
    memory = plan_memory(
        sizes, own_part(world, recipe), compute_bytes=policy.compute_dtype.itemsize, longest_prompt=longest_prompt,
        device=own_bytes(world, policy.device), kind=policy.device.split(":")[0], machinery=machinery,
    )  # fmt: skip
    require_fit(memory, recipe.model.path)
    return memory


def engine_of(
    policy: Policy, vllm: VllmSection | None, machinery: Machinery, memory: MemoryPlan | None, longest: int = 0
) -> Engine:
    """Return the rollout engine of a run, within what its memory plan allows; longest: tokens of its longest text."""
    return build_engine(
        policy, "vllm" if vllm is not None else "plain" if machinery.plain else "fast",
        memory.rows if memory is not None else machinery.max_rows, machinery.compiled, graphs=machinery.graphs,
        triton=machinery.triton, dequantize=memory.dequantize if memory is not None else machinery.dequantize != "off",
        vllm=vllm, longest=longest,
    )  # fmt: skip


def settle_precision(recipe: Recipe, device: str) -> tuple[Recipe, str]:
    """Return the recipe with "auto" replaced by what this CPU computes fastest in, and why; elsewhere unchanged, "".

    The run keeps the recipe returned, so that a resumed run computes as it began, on whatever machine.
    """
    if recipe.model.dtype != "auto" or device != "cpu":
        return recipe, ""
    decided = cpu_precision()
    model = recipe.model.model_copy(update={"dtype": decided.dtype})
    return recipe.model_copy(update={"model": model}), decided.reason


def _require_room(recipe: Recipe, device: str, world: World) -> None:
    """Raise UserError when the model is too large for the device, before its weights are read."""
    sizes = sizes_ahead(recipe.model)
    if sizes is not None:
        require_room(
            sizes, own_part(world, recipe), compute_bytes=compute_dtype(recipe.model.dtype, device).itemsize,
            device=own_bytes(world, device), kind=device.split(":")[0],
        )  # fmt: skip


def require_enough(problems: Sequence[Problem], rollout: RolloutSection) -> None:
    """Raise UserError unless there are problems for one step at least."""
    if len(problems) < rollout.prompts_per_step:
        lower = f"use at most {len(problems)}, or " if problems else ""
        raise UserError(
            f"rollout.prompts_per_step={rollout.prompts_per_step}: there are only {len(problems)} training problems, "
            f"and a step never takes a problem twice; {lower}give more problems"
        )


def require_prompts_fit(problems: Sequence[Problem], policy: Policy, fmt: Format, max_new_tokens: int) -> int:
    """Return the tokens of the longest prompt, when all fit.

    Raises: UserError when a prompt with its completion is longer than the model's context. None is cut.
    """
    lengths = [len(encode_prompt(policy.tokenizer, problem, fmt).ids) for problem in problems]
    longest = max(lengths)
    question = problems[lengths.index(longest)].question[:60]
    if longest + max_new_tokens > policy.max_context:
        raise UserError(
            f"{named('rollout.max_new_tokens', str(max_new_tokens))}: with the longest prompt of {longest} tokens "
            f"({question!r}…) that is more than the model's context of {policy.max_context}; "
            f"{room_remedy(policy, longest)}"
        )
    return longest


def _models(recipe: Recipe, device: str, checkpoint: Path | None) -> tuple[Policy, Reference | None]:
    """Return the policy and its reference. The reference is always the recipe's model, never the checkpoint."""
    model, start = recipe.model, None
    if checkpoint is not None:
        model = model.model_copy(update={"path": str(checkpoint)})
        if recipe.grpo.beta > 0.0 and model.lora is None:
            start = load_policy(recipe.model, device, train=True)
    policy = load_policy(model, device, train=True)
    return policy, build_reference(start or policy, recipe.grpo.beta)
