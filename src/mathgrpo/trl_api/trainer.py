"""GRPOTrainer: TRL's constructor and methods on this package's rollout engine and update."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, set_seed
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import speed_metrics

from mathgrpo.errors import UserError, naming
from mathgrpo.hardware.device_memory import bound_kernel_caches
from mathgrpo.optim.master_adamw import compute_copies
from mathgrpo.rollout import Engine
from mathgrpo.runs.checkpoint import TrainingState
from mathgrpo.runs.hook import Run
from mathgrpo.runs.interrupt import StopRequests
from mathgrpo.runs.speedometer import build_speedometer
from mathgrpo.training.loop import run_to_the_end
from mathgrpo.training.together import require_same_weights
from mathgrpo.trl_api.argument_fields import TRL_NAMES
from mathgrpo.trl_api.callback_hook import CallbackHook
from mathgrpo.trl_api.callbacks import default_callbacks, running_trackers
from mathgrpo.trl_api.dataset import Row, Schedule, check_dataset, warn_of_template
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.trl_api.model import make_policy, make_reference
from mathgrpo.trl_api.reporting import Processes, Reporting, push, require_hub, script_world
from mathgrpo.trl_api.reward_functions import RewardFunctions
from mathgrpo.trl_api.script_setup import (
    build_trainer_engine,
    longest_text,
    make_optimizer,
    make_scheduler,
    memory_of,
)
from mathgrpo.trl_api.script_task import ScriptTask
from mathgrpo.trl_api.trainer_checkpoint import find_checkpoint, load_checkpoint, save_model
from mathgrpo.trl_api.trl_metrics import RewardsAt, RewardVerdict, lengths_and_rewards, reward_verdicts, rewards_at
from mathgrpo.types import RolloutGroup
from mathgrpo.update import Updater
from mathgrpo.update.layout_trial import unshared_reason


class GRPOTrainer(Reporting):
    """Trains a model with GRPO. Arguments and methods are those of TRL 1.16's GRPOTrainer.

    Args:
        model: a name (folder, hub id, "starter"), a transformers causal language model, or a PEFT model around one,
            quantised or not.
        reward_funcs: one or several of: function f(prompts, completions, **columns) -> one number or None (does not
            apply) a completion, sync or async; a sequence-classification model; the name of one.
        args: settings; None takes the defaults and the output folder "<model>-GRPO".
        train_dataset: rows with a column "prompt" (text or messages): a datasets.Dataset or a list of dictionaries.
            Further columns are passed to the reward functions by name.
        eval_dataset: the same, or a dictionary of several, for `evaluate`.
        processing_class: the tokenizer; None loads the one beside the model.
        reward_processing_classes: tokenizers of reward models.
        callbacks: transformers TrainerCallbacks.
        optimizers: (optimizer, scheduler); None for those of args.
        quantization_config: how to quantise a model given by name.
        peft_config: makes an adapter that trains instead of the model.

    Raises: UserError for whatever cannot work.

    Example:
        ```python
        trainer = GRPOTrainer("Qwen/Qwen2.5-0.5B-Instruct", my_reward, train_dataset=rows)
        trainer.train()
        trainer.save_model("out")
        ```

    Attributes:
        model, processing_class, args, train_dataset, eval_dataset, optimizer, lr_scheduler: what trains, with what.
        state, control, callback_handler: transformers' own; state.log_history has every log.
        add_callback, pop_callback, remove_callback: the handler's methods.
        reward_funcs, reward_func_names: the reward functions, and their names as in the logs.
        engine: the rollout engine; engine.reason says why this one.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Sequence[Row] | Any = None,
        eval_dataset: Sequence[Row] | Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: Sequence[Callable[..., Any]] | None = None,
        rollout_func: Callable[..., Any] | None = None,
        environment_factory: Any = None,
    ) -> None:
        for name, value in (("tools", tools), ("environment_factory", environment_factory)):
            if value:
                raise UserError(f"{name}: completions of several turns are not served; leave it out")
        if rollout_func is not None:
            raise UserError("rollout_func: is not served; the trainer's engine draws the completions, leave it out")
        self.args = args = args if args is not None else GRPOConfig(_default_folder(model))
        if train_dataset is None:
            raise UserError('train_dataset: is required; give rows with a column "prompt"')
        self.train_dataset = check_dataset(train_dataset, "train_dataset")
        self.eval_dataset = eval_dataset
        if eval_dataset is None and args.eval_strategy != "no":
            raise UserError(f'eval_strategy="{args.eval_strategy}": needs an eval_dataset')
        plan = Schedule(len(self.train_dataset), args)
        if args.push_to_hub:
            require_hub(args)
        bound_kernel_caches()
        self._world = world = script_world(args.device.type, float(args.ddp_timeout))
        _make_folder(args.output_dir)
        set_seed(args.seed)  # a fresh adapter is drawn from it
        self._policy = policy = make_policy(model, args, processing_class, peft_config, quantization_config)
        self.model, self.processing_class = policy.model, policy.tokenizer
        warn_of_template(policy.tokenizer, self.train_dataset, args)
        self.accelerator = Processes(world, policy.device, args.local_process_index)
        rewards = RewardFunctions(reward_funcs, args.reward_weights, reward_processing_classes, policy.device)
        self.reward_funcs, self.reward_func_names = rewards.functions, rewards.names
        with naming(TRL_NAMES):
            self.engine: Engine = build_trainer_engine(policy, args, self.train_dataset)
        self._reference = make_reference(policy, args.beta)
        self._task = ScriptTask(policy, rewards, self.train_dataset, plan, args, world)
        self._given_optimizers = optimizers
        self._evaluated: dict[str, list[RewardsAt]] = {}
        self.optimizer, self.lr_scheduler = optimizers
        self._start_state(callbacks or [])

    def _start_state(self, callbacks: list[Any]) -> None:
        every = [*default_callbacks(self.args), *callbacks]
        handler: Any = CallbackHandler(every, self.model, self.processing_class, self.optimizer, self.lr_scheduler)
        self.callback_handler = handler
        self.add_callback, self.pop_callback = handler.add_callback, handler.pop_callback
        self.remove_callback = handler.remove_callback
        self.state, self.control = TrainerState(), TrainerControl()
        self.control = handler.on_init_end(self.args, self.state, self.control)

    def train(self, resume_from_checkpoint: str | bool | None = None) -> Any:
        """Train, and return transformers' TrainOutput(global_step, training_loss, metrics).

        resume_from_checkpoint: a checkpoint-N folder of this trainer, or True for the newest in args.output_dir; the
            run then goes on as if it had not been interrupted.
        Raises: UserError for a checkpoint that does not fit, a failing reward function, or a loss that is not finite.
        """
        checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir) if resume_from_checkpoint else None
        with naming(TRL_NAMES):
            memory = memory_of(self._policy, self.train_dataset, self.args, self._world)
            self._make_optimizer()
            self.state, at = TrainerState(), TrainingState(0, memory.token_budget if memory is not None else 0)
            if checkpoint is not None:
                self.state, at = load_checkpoint(
                    checkpoint, self._policy, self.optimizer, self.lr_scheduler, self._world.rank
                )
            self._task.state, self._task.stopped = self.state, False
            with compute_copies(self.optimizer):
                require_same_weights(self._world, self.optimizer, self.state.global_step)
            meter = self._world.from_main(lambda: build_speedometer(self._policy))
            hook = CallbackHook(self, self._task)
            longest = longest_text(self._policy, self.train_dataset, self.args)
            unshared_reason(self._policy.model, longest)  # remembered; what it refuses is told before step 0
            updater = Updater(
                self._policy, self.optimizer, reference=self._reference, world=self._world, longest=longest
            )
            run_to_the_end(
                Run(
                    self._task, self._policy, self.engine, updater, self.optimizer, meter,
                    StopRequests(self._world), self._world, [hook], "train(resume_from_checkpoint=True)",
                    step=at.step, token_budget=at.token_budget or None,
                    recompute=memory is not None and memory.recompute,
                    computing=lambda: compute_copies(self.optimizer),
                )
            )  # fmt: skip
        if self.args.push_to_hub:
            self.push_to_hub()
        return hook.output

    def _make_optimizer(self) -> None:
        optimizer, scheduler = self._given_optimizers
        self.optimizer = optimizer or make_optimizer(self._policy, self.args, self.optimizer)
        self.lr_scheduler = scheduler or make_scheduler(self.optimizer, self.args, self._task.plan.max_steps)
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler

    def evaluate(self, eval_dataset: Any = None, metric_key_prefix: str = "eval") -> dict[str, float | None]:
        """Return the mean rewards and lengths of completions drawn for an evaluation set, and log them.

        num_generations_eval (or num_generations) completions a prompt, with the noise of the seed, so that two
        evaluations differ by the weights only. TRL's eval_loss is not computed.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise UserError("eval_dataset: evaluate() needs one; give it here or to the trainer")
        if isinstance(dataset, dict):
            results = [self.evaluate(rows, f"{metric_key_prefix}_{name}") for name, rows in dataset.items()]
            return {name: value for result in results for name, value in result.items()}
        rows = check_dataset(dataset, "eval_dataset")
        started, per_chunk = time.time(), max(1, self.args.prompts_per_rollout)
        chunks = [range(first, min(first + per_chunk, len(rows))) for first in range(0, len(rows), per_chunk)]
        with naming(TRL_NAMES):
            found, noted = self._rewarded(rows, chunks)
        values = lengths_and_rewards(found, noted, str(self.args.scale_rewards))
        self._evaluated.setdefault(metric_key_prefix, []).append(rewards_at(self.state.global_step, found))
        metrics: dict[str, float | None] = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        metrics |= speed_metrics(metric_key_prefix, started, num_samples=len(rows), num_steps=len(chunks))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._note_best(metrics)
        return metrics

    def _rewarded(
        self, rows: Sequence[Row], chunks: Sequence[range]
    ) -> tuple[list[RolloutGroup], dict[str, list[float]]]:
        """Return the rewarded completions of an evaluation's rows, and the metrics that reward functions noted."""
        world, task, groups, noted = self._world, self._task, list[RolloutGroup](), dict[str, list[float]]()
        task.state, group_size = self.state, self.args.num_generations_eval or self.args.num_generations
        for keys in chunks:
            share = world.share(keys)
            with compute_copies(self.optimizer):
                drawn = task.draw_rows(self.engine, [rows[key] for key in share], share, group_size, "evaluation")
            self.engine.make_room()
            found = world.gather_shares(task.score(drawn))
            for name, values in task.gathered_notes(found).metrics.items():
                noted.setdefault(name, []).extend(values)
            groups += found
        return groups, noted

    @property
    def verdicts(self) -> list[RewardVerdict]:
        """Whether the rewards of each evaluation set rose, from its first evaluation here to its last, row by row.

        First their sum, then, of several reward functions, what each pays alone.

        Draws differ by the weights only, so the comparison is paired. `train` shows it at its end, and writes
        verdict.json; eval_on_start=True makes the first evaluation that of the model before training.
        """
        compared = (reward_verdicts(name, made[0], made[-1]) for name, made in self._evaluated.items())
        return [verdict for verdicts in compared for verdict in verdicts]

    def _note_best(self, metrics: dict[str, float | None]) -> None:
        """Keep the best value of args.metric_for_best_model in the state, after the callbacks have compared with it."""
        name, state = self.args.metric_for_best_model or "", self.state
        value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
        if value is None:
            return
        better = state.best_metric is None or (value > state.best_metric) == bool(self.args.greater_is_better)
        if better and value != state.best_metric:
            state.best_metric, state.best_global_step = value, state.global_step

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add a line to state.log_history and hand it to the callbacks."""
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write model (an adapter: the adapter), tokenizer and settings, for from_pretrained."""
        if self._world.is_main:
            save_model(Path(output_dir or self.args.output_dir), self._policy, self.args)

    save_pretrained = save_model

    def push_to_hub(self, commit_message: str = "End of training", blocking: bool = True, **card: Any) -> str:
        """Upload model, tokenizer and card to args.hub_model_id (else the output folder's name); return the address.

        Further keywords (dataset_name, tags) are `create_model_card`'s.
        Raises: UserError when the hub does not answer or refuses; the model is then in args.output_dir.
        """
        self.save_model()
        self.create_model_card(**card)
        return push(Path(self.args.output_dir), self.args, commit_message)

    def end(self) -> None:
        """End what the run has started outside this process: trackers, and a vLLM server of its own."""
        for tracker in running_trackers(self.args):
            tracker.finish()
        self.engine.close()


def _default_folder(model: Any) -> str:
    name = model if isinstance(model, str) else str(getattr(model.config, "_name_or_path", "")) or "model"
    return f"{Path(name).name}-GRPO"


def _make_folder(output_dir: str) -> None:
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={output_dir}: cannot be made ({error.strerror}); name another folder") from error
