"""The hooks that write a run folder: lines, evaluations and run.json, and the checkpoints. Of the main process only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mathgrpo.evaluation import write_evaluation
from mathgrpo.evaluation.records import Evaluation
from mathgrpo.runs.checkpoint import FOLDER, TrainingState, save_checkpoint
from mathgrpo.runs.hook import Hook, Run, TakenStep
from mathgrpo.runs.run_folder import METRICS, ROLLOUTS, append_lines, finished_info, write_info
from mathgrpo.types import Completion, RolloutGroup, Verdict


class Record(Hook):
    """Writes what a run says into its folder.

    Attributes:
        info: run.json as it is on disk.
    """

    def __init__(self, folder: Path, info: dict[str, Any], log_groups: int) -> None:
        self.folder, self.info, self._log_groups = folder, info, log_groups

    def after_step(self, run: Run, taken: TakenStep) -> None:
        """Append the step's metrics, and the groups of completions that are to be kept."""
        append_lines(self.folder / METRICS, [taken.metrics])
        append_lines(self.folder / ROLLOUTS, rollout_lines(taken.number, taken.groups[: self._log_groups]))

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        write_evaluation(evaluation, self.folder, name)

    def noted(self, run: Run, note: str) -> None:
        """Put the note into run.json."""
        self.set("notes", [*self.info["notes"], note])

    def keep(self, run: Run, groups: Sequence[RolloutGroup]) -> str:
        """Write down the groups of a step that failed."""
        if not groups:
            return ""
        path = self.folder / f"failed-step-{run.step + 1}.jsonl"
        append_lines(path, batch_lines(run.step + 1, groups))
        return f"the batch is in {path}"

    def close(self, run: Run, status: str) -> None:
        """Write run.json with how and when the run ended."""
        write_info(self.folder, finished_info(self.info, status, run.step))

    def set(self, name: str, value: Any) -> None:
        """Write a value into run.json."""
        self.info[name] = value
        write_info(self.folder, self.info)


class Checkpoints(Hook):
    """Saves the run every so many steps, at its end, when it must stop, and where an evaluation was the best so far.

    keep: how many of the newest stay; the best one stays besides, and run.json names it.
    best: whether evaluations are made in the run, so that there is a best one.
    """

    def __init__(self, record: Record, *, every: int, keep: int, best: bool) -> None:
        self._record, self._every, self._keep, self._best = record, every, keep, best

    def after_step(self, run: Run, taken: TakenStep) -> None:
        if self._every and taken.number % self._every == 0:
            self.save(run)

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        """Save the policy that solves more held-out problems than any before it in the run."""
        if not self._best or not run.step or name.endswith("-templates"):
            return
        accuracy, before = evaluation.summary()["accuracy"], self._record.info.get("best")
        if before is None or accuracy > before["accuracy"]:
            self._record.set("best", {"checkpoint": f"{FOLDER}/step-{run.step}", "accuracy": accuracy})
            self.save(run)

    def keep(self, run: Run, groups: Sequence[RolloutGroup]) -> str:
        folder = self.save(run)
        return f"the last good weights are in {folder}" if folder is not None else ""

    def end(self, run: Run) -> None:
        self.save(run)

    def save(self, run: Run) -> Path | None:
        """Return the checkpoint of the run as it is now; None before the first step, which needs none."""
        if not run.step:
            return None
        folder, best = self._record.folder, self._record.info.get("best")
        kept = (folder / best["checkpoint"],) if best is not None else ()
        state = TrainingState(run.step, run.token_budget or 0)
        return save_checkpoint(folder, run.policy, run.optimizer, state, self._keep, kept)


def rollout_lines(step: int, groups: Iterable[RolloutGroup]) -> list[dict[str, Any]]:
    """Return one line of rollouts.jsonl for each group."""
    return [_group_line(step, group) for group in groups]


def batch_lines(step: int, groups: Iterable[RolloutGroup]) -> list[dict[str, Any]]:
    """Return lines that hold a step's batch down to token ids and sampling log-probabilities, to find a fault with."""
    lines = []
    for group in groups:
        line = _group_line(step, group) | {"prompt_ids": list(group.prompt.ids)}
        for row, completion in zip(line["completions"], group.completions, strict=True):
            row |= {"ids": list(completion.ids), "sampling_logprobs": list(completion.logprobs)}
        lines.append(line)
    return lines


def _group_line(step: int, group: RolloutGroup) -> dict[str, Any]:
    return {
        "step": step,
        "problem_id": group.problem.id,
        "question": group.problem.question,
        "gold": group.problem.answer,
        "prompt_tokens": len(group.prompt.ids),
        "completions": [_completion_line(group, g, completion) for g, completion in enumerate(group.completions)],
    }


def verdict_facts(verdict: Verdict | None) -> dict[str, Any]:
    """Return what a file says of a verdict; its outcome None where nothing was graded."""
    if verdict is None:
        return {"verdict": None}
    return {"verdict": verdict.outcome, "read": verdict.read, "rule": verdict.rule, "why": verdict.why}


def _completion_line(group: RolloutGroup, g: int, completion: Completion) -> dict[str, Any]:
    return {
        "text": group.texts[g],
        "tokens": len(completion.ids),
        "finish_reason": completion.finish_reason,
        **verdict_facts(group.grades[g].verdict if group.grades else None),
        "reward": None if math.isnan(group.rewards[g]) else group.rewards[g],
        "reward_parts": {name: values[g] for name, values in group.reward_parts.items()},
        "advantage": group.advantages[g],
        "logprob_mean": math.fsum(completion.logprobs) / len(completion.logprobs) if completion.logprobs else None,
    }
