"""The run: rollout after rollout, with logs, evaluations, checkpoints and the callbacks' say."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError
from mathgrpo.models.lora import learning_failure
from mathgrpo.rollout.outside import keep_log
from mathgrpo.trl_api.completions import log_completions
from mathgrpo.trl_api.dataset import PromptOrder, Schedule
from mathgrpo.trl_api.hub_push import push
from mathgrpo.trl_api.scoring import Scored
from mathgrpo.trl_api.trainer_checkpoint import load_weights, remove_old, save_checkpoint
from mathgrpo.trl_api.trainer_step import Machinery, step_metrics
from mathgrpo.trl_api.trl_metrics import Metrics, mean_metrics
from mathgrpo.update import NonFiniteError


class Loop:
    """One call of `GRPOTrainer.train`.

    trainer: gives state, control, callbacks, optimizer; its log, evaluate and args are used.
    position: the next rollout, and the token budget of micro-batches (0: the default) after halvings.
    """

    def __init__(
        self, trainer: Any, machinery: Machinery, plan: Schedule, order: PromptOrder, position: dict[str, int]
    ) -> None:
        self._trainer, self._machinery, self._plan, self._order = trainer, machinery, plan, order
        self._args = machinery.args
        self._rollout, self._token_budget = position["rollout"], position["token_budget"] or None
        self._learning_rate, self._steps_inside = 0.0, 0
        self._window: list[Metrics] = []
        self._losses: list[float] = []
        self._last: Scored | None = None
        self._logged_step = trainer.state.global_step

    def run(self) -> Any:
        """Run to max_steps, or until a callback stops it; return transformers' TrainOutput."""
        trainer, state, handler = self._trainer, self._trainer.state, self._trainer.callback_handler
        state.max_steps, state.num_train_epochs = self._plan.max_steps, self._plan.num_epochs
        state.train_batch_size = self._args.per_device_train_batch_size
        state.compute_steps(self._args, self._plan.max_steps)
        started, first_step = time.time(), state.global_step
        state.epoch = self._rollout / self._plan.rollouts_per_epoch
        if self._args.use_vllm:
            Path(self._args.output_dir).mkdir(parents=True, exist_ok=True)
            keep_log(self._machinery.engine, Path(self._args.output_dir))
        trainer.control = handler.on_train_begin(self._args, state, trainer.control)
        if self._args.eval_on_start and first_step == 0:
            trainer.evaluate()
        hooks = (
            trainer.optimizer.register_step_pre_hook(self._before_step),
            trainer.optimizer.register_step_post_hook(self._after_step),
        )
        try:
            while state.global_step < state.max_steps and not trainer.control.should_training_stop:
                self._one_epoch()
        finally:
            for hook in hooks:
                hook.remove()
        return self._finish(started, first_step)

    def _one_epoch(self) -> None:
        """Take the rollouts that are left of the epoch."""
        trainer, state, handler = self._trainer, self._trainer.state, self._trainer.callback_handler
        end = (self._rollout // self._plan.rollouts_per_epoch + 1) * self._plan.rollouts_per_epoch
        trainer.control = handler.on_epoch_begin(self._args, state, trainer.control)
        while self._rollout < end and state.global_step < state.max_steps:
            trainer.control = handler.on_step_begin(self._args, state, trainer.control)
            self._one_rollout()
            self._rollout += 1
            state.epoch = self._rollout / self._plan.rollouts_per_epoch
            trainer.control = handler.on_step_end(self._args, state, trainer.control)
            self._follow_control()
            if trainer.control.should_epoch_stop or trainer.control.should_training_stop:
                break
        if trainer.control.should_epoch_stop:
            self._rollout = end
        trainer.control = handler.on_epoch_end(self._args, state, trainer.control)
        self._follow_control()

    def _one_rollout(self) -> None:
        """Draw completions, reward them, take the optimizer steps on them."""
        state, started = self._trainer.state, time.perf_counter()
        keys = self._order.rows(self._rollout)
        rows = [self._trainer.train_dataset[key] for key in keys]
        purpose = f"rollout/{self._rollout}"
        scored = self._machinery.rollout(rows, keys, self._args.num_generations, purpose, state)
        lengths = (len(g.prompt.ids) + len(c.ids) for g in scored.groups for c in g.completions)
        state.num_input_tokens_seen += sum(lengths)
        updates = min(self._plan.updates_per_rollout, state.max_steps - state.global_step)
        try:
            stats = self._machinery.update(
                scored, self._trainer.optimizer, updates=updates, rollout=self._rollout, token_budget=self._token_budget
            )
        except NonFiniteError as error:
            folder = self._save()
            raise UserError(
                f"step {state.global_step + 1}: {error}; the last good weights are in {folder}; "
                f"lower learning_rate={self._args.learning_rate:g}"
            ) from error
        state.global_step += updates
        self._token_budget, self._last = stats.token_budget, scored
        metrics = self._machinery.metrics_of(scored) | step_metrics(stats, started, updates)
        metrics |= self._machinery.engine_metrics
        self._window.append(metrics)
        self._losses += [float(metrics["loss"] or 0.0)] * updates

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._steps_inside += 1  # an optimizer whose step calls its base class's has the hooks called for both
        if self._steps_inside > 1:
            return
        trainer = self._trainer
        trainer.control = trainer.callback_handler.on_pre_optimizer_step(self._args, trainer.state, trainer.control)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The learning rate changes after every optimizer step, also between those on the same completions."""
        self._steps_inside -= 1
        if self._steps_inside:
            return
        trainer = self._trainer
        trainer.control = trainer.callback_handler.on_optimizer_step(self._args, trainer.state, trainer.control)
        self._learning_rate = optimizer.param_groups[0]["lr"]
        trainer.lr_scheduler.step()

    def _follow_control(self) -> None:
        """Log, evaluate and save where flow and callbacks want it."""
        trainer = self._trainer
        if trainer.control.should_log and trainer.state.global_step > self._logged_step:
            self._log()
        if trainer.control.should_evaluate:
            trainer.evaluate()
        if trainer.control.should_save:
            self._save()
            trainer.control = trainer.callback_handler.on_save(self._args, trainer.state, trainer.control)

    def _log(self) -> None:
        trainer, metrics = self._trainer, mean_metrics(self._window)
        logs = {"loss": metrics.pop("loss", None), "grad_norm": self._window[-1].get("grad_norm")}
        metrics.pop("grad_norm", None)
        logs |= {"learning_rate": self._learning_rate, "num_tokens": float(trainer.state.num_input_tokens_seen)}
        trainer.log(logs | metrics)
        self._window, self._logged_step = [], trainer.state.global_step
        if self._args.log_completions and self._last is not None:
            log_completions(self._last, trainer.state.global_step, self._args)

    def _save(self) -> Path:
        """Return checkpoint-N, written whole; older ones beyond save_total_limit are removed."""
        trainer, state = self._trainer, self._trainer.state
        folder = Path(self._args.output_dir) / f"checkpoint-{state.global_step}"
        position = {"rollout": self._rollout, "token_budget": self._token_budget or 0}
        policy = self._machinery.policy
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(folder)
        save_checkpoint(folder, policy, trainer.optimizer, trainer.lr_scheduler, state, position, self._args)
        remove_old(self._args.output_dir, self._args.save_total_limit, state.best_model_checkpoint)
        if self._args.push_to_hub and self._args.hub_strategy == "every_save":
            self._push(folder)
        return folder

    def _push(self, folder: Path) -> None:
        """Upload a checkpoint. A hub that has gone away does not end the run: the last upload tells."""
        try:
            push(folder, self._args, f"Training in progress, step {self._trainer.state.global_step}")
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)

    def _load_best(self) -> None:
        state = self._trainer.state
        if state.best_model_checkpoint is None:
            warnings.warn(
                f"load_best_model_at_end: no checkpoint was written at step {state.best_global_step}, where "
                f"{self._args.metric_for_best_model} was best; the model is the last one",
                stacklevel=2,
            )
            return
        load_weights(Path(state.best_model_checkpoint), self._machinery.policy)

    def _finish(self, started: float, first_step: int) -> Any:
        from transformers.trainer_utils import TrainOutput, speed_metrics

        trainer, steps = self._trainer, self._trainer.state.global_step - first_step
        if self._args.load_best_model_at_end:
            self._load_best()
        loss = sum(self._losses) / len(self._losses) if self._losses else 0.0
        samples = steps * self._args.per_device_train_batch_size * self._args.gradient_accumulation_steps
        metrics = speed_metrics("train", started, num_samples=samples, num_steps=steps)
        metrics |= {"total_flos": trainer.state.total_flos, "train_loss": loss}
        trainer.log(metrics)  # which adds the epoch
        failure = learning_failure(self._machinery.policy.model)
        if steps and failure:
            warnings.warn(failure.replace("optimizer.learning_rate", "learning_rate"), stacklevel=2)
        trainer.control = trainer.callback_handler.on_train_end(self._args, trainer.state, trainer.control)
        return TrainOutput(trainer.state.global_step, loss, metrics)
