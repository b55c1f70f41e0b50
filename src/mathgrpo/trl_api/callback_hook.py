"""transformers' callbacks as a hook of the loop: their moments, logs, evaluations and checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.trainer_utils import TrainOutput, speed_metrics

from mathgrpo.errors import UserError
from mathgrpo.evaluation.reward_change import without_infinities
from mathgrpo.files import to_json, write_atomically
from mathgrpo.models.lora import learning_failure
from mathgrpo.runs.checkpoint import remove_older
from mathgrpo.runs.hook import Hook, Run, TakenStep
from mathgrpo.runs.speedometer import speed_line
from mathgrpo.runs.task import Metrics
from mathgrpo.trl_api.completions import log_completions
from mathgrpo.trl_api.reporting import push
from mathgrpo.trl_api.script_task import ScriptTask
from mathgrpo.trl_api.trainer_checkpoint import checkpoints, load_weights, random_states, save_checkpoint
from mathgrpo.trl_api.trl_metrics import mean_metrics, trl_names
from mathgrpo.types import RolloutGroup


class CallbackHook(Hook):
    """One call of `GRPOTrainer.train`, as its callbacks see it.

    trainer: gives state, control, callbacks, scheduler; its log, evaluate and args are used.

    Attributes:
        output: transformers' TrainOutput, when the run has ended.
    """

    output: Any = None

    def __init__(self, trainer: Any, task: ScriptTask) -> None:
        self._trainer, self._task, self._plan, self._args = trainer, task, task.plan, trainer.args
        self._learning_rate, self._steps_inside = 0.0, 0
        self._epoch_end = -1
        self._taken: list[Metrics] = []
        self._logged = 0
        """How many of the steps taken are in the logs."""
        self._losses: list[float] = []
        self._started, self._first_step = time.time(), trainer.state.global_step
        self._optimizer_hooks: list[Any] = []

    def begin(self, run: Run) -> None:
        """Fill in transformers' state, and begin."""
        trainer, state, args = self._trainer, self._trainer.state, self._args
        state.max_steps, state.num_train_epochs = self._plan.max_steps, self._plan.num_epochs
        state.train_batch_size = args.per_device_train_batch_size
        state.is_world_process_zero, state.is_local_process_zero = run.world.is_main, args.local_process_index == 0
        state.compute_steps(args, self._plan.max_steps)
        state.epoch = run.step / self._plan.rollouts_per_epoch
        if args.use_vllm:
            run.engine.keep_log(Path(args.output_dir))
        self._call("train_begin")
        if args.eval_on_start and self._first_step == 0:
            trainer.evaluate()
        self._optimizer_hooks = [
            run.optimizer.register_step_pre_hook(self._before_optimizer_step),
            run.optimizer.register_step_post_hook(self._after_optimizer_step),
        ]

    def before_step(self, run: Run) -> None:
        """Begin an epoch where one begins, and a step."""
        if self._epoch_end < 0:
            per_epoch = self._plan.rollouts_per_epoch
            self._epoch_end = (run.step // per_epoch + 1) * per_epoch
            self._call("epoch_begin")
        self._call("step_begin")

    def after_step(self, run: Run, taken: TakenStep) -> None:
        """Count the optimizer steps, and log, evaluate and save where flow and callbacks want it."""
        state = self._trainer.state
        state.num_input_tokens_seen += sum(len(g.prompt.ids) + len(c.ids) for g in taken.groups for c in g.completions)
        state.global_step += taken.section.updates_per_rollout
        state.epoch = run.step / self._plan.rollouts_per_epoch
        metrics = trl_names(taken.metrics) | {"step_time": taken.seconds / taken.section.updates_per_rollout}
        self._taken.append(metrics)
        self._losses += [metrics["loss"] or 0.0] * taken.section.updates_per_rollout
        self._call("step_end")
        self._follow_control(run)
        control = self._trainer.control
        over = control.should_epoch_stop or control.should_training_stop or state.global_step >= state.max_steps
        if not over and run.step < self._epoch_end:
            return
        if control.should_epoch_stop:
            run.step = self._epoch_end
        self._epoch_end = -1
        self._call("epoch_end")
        self._follow_control(run)

    def noted(self, run: Run, note: str) -> None:
        """Warn of the note."""
        if run.world.is_main:
            warnings.warn(note, stacklevel=2)

    def keep(self, run: Run, groups: Sequence[RolloutGroup]) -> str:
        """Save the run as it is."""
        return f"the last good weights are in {self._save(run)}"

    def end(self, run: Run) -> None:
        """Load the best model if that is wanted, and make the output of `train`."""
        trainer, steps = self._trainer, self._trainer.state.global_step - self._first_step
        if self._args.load_best_model_at_end:
            self._load_best(run)
        loss = sum(self._losses) / len(self._losses) if self._losses else 0.0
        samples = steps * self._args.train_batch_size * self._args.world_size * self._args.gradient_accumulation_steps
        metrics = speed_metrics("train", self._started, num_samples=samples, num_steps=steps)
        metrics |= {"total_flos": trainer.state.total_flos, "train_loss": loss}
        trainer.log(metrics)  # which adds the epoch
        run.note([learning_failure(run.policy.model)] if steps else [])
        if run.world.is_main and self._taken:
            self._report(run)
        self._call("train_end")
        self.output = TrainOutput(trainer.state.global_step, loss, metrics)

    def _report(self, run: Run) -> None:
        """Say how fast the machine was used, and whether evaluations got better."""
        verdicts = self._trainer.verdicts
        taken = [{name: value for name, value in metrics.items() if value is not None} for metrics in self._taken]
        lines = (run.speedometer.line, speed_line(taken), *(verdict.line for verdict in verdicts))
        print("\n".join(filter(None, lines)))
        if verdicts:
            names = ["/".join(filter(None, (verdict.name, verdict.function))) for verdict in verdicts]
            records = ({"line": verdict.line, **without_infinities(asdict(verdict))} for verdict in verdicts)
            content = dict(zip(names, records, strict=True))
            write_atomically(Path(self._args.output_dir) / "verdict.json", to_json(content, indent=1) + "\n")

    def close(self, run: Run, status: str) -> None:
        """Take the hooks off the optimizer, which may train on."""
        for hook in self._optimizer_hooks:
            hook.remove()

    def _call(self, event: str) -> None:
        """Let the callbacks know, and take their answer."""
        trainer = self._trainer
        trainer.control = getattr(trainer.callback_handler, f"on_{event}")(self._args, trainer.state, trainer.control)

    def _before_optimizer_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._steps_inside += 1  # an optimizer whose step calls its base class's has the hooks called for both
        if self._steps_inside == 1:
            self._call("pre_optimizer_step")

    def _after_optimizer_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The learning rate changes after every optimizer step, also between those on the same completions."""
        self._steps_inside -= 1
        if self._steps_inside:
            return
        self._call("optimizer_step")
        self._learning_rate = optimizer.param_groups[0]["lr"]
        self._trainer.lr_scheduler.step()

    def _follow_control(self, run: Run) -> None:
        """Log, evaluate and save where flow and callbacks want it; what one process's want, all do."""
        trainer, control = self._trainer, self._trainer.control
        for wanted in run.world.gather(vars(control)):
            for name, value in wanted.items():
                setattr(control, name, getattr(control, name) or value)
        self._task.stopped = control.should_training_stop
        if control.should_log and self._logged < len(self._taken):
            self._log(run)
        if trainer.control.should_evaluate:
            trainer.evaluate()
        if trainer.control.should_save:
            self._save(run)
            self._call("save")

    def _log(self, run: Run) -> None:
        """Log the means over the steps since the last log; of the gradient's norm the last."""
        trainer, metrics = self._trainer, mean_metrics(self._taken[self._logged :])
        first = {"loss": metrics.get("loss"), "grad_norm": self._taken[-1].get("grad_norm")}
        first |= {"learning_rate": self._learning_rate, "num_tokens": float(trainer.state.num_input_tokens_seen)}
        trainer.log(first | metrics | {"grad_norm": first["grad_norm"]})
        self._logged = len(self._taken)
        if self._args.log_completions and run.world.is_main:
            log_completions(self._task.groups, self._task.notes, trainer.state.global_step, self._args)

    def _save(self, run: Run) -> Path:
        """Return checkpoint-N, written whole by the main process; older ones beyond save_total_limit are removed."""
        trainer, state, args = self._trainer, self._trainer.state, self._args
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(folder)
        randoms = run.world.gather(random_states())

        def write() -> None:
            save_checkpoint(folder, run, trainer.lr_scheduler, state, randoms, args)
            if args.save_total_limit:
                best = Path(state.best_model_checkpoint or folder)
                remove_older(checkpoints(args.output_dir), args.save_total_limit, [best])
            if args.push_to_hub and args.hub_strategy == "every_save":
                try:
                    push(folder, args, f"Training in progress, step {state.global_step}")
                except UserError as error:  # a hub that has gone away does not end the run: the last upload tells
                    warnings.warn(str(error), stacklevel=2)

        run.world.from_main(write)
        return folder

    def _load_best(self, run: Run) -> None:
        state = self._trainer.state
        if state.best_model_checkpoint is None:
            warnings.warn(
                f"load_best_model_at_end: no checkpoint was written at step {state.best_global_step}, where "
                f"{self._args.metric_for_best_model} was best; the model is the last one",
                stacklevel=2,
            )
            return
        load_weights(Path(state.best_model_checkpoint), run.policy)
