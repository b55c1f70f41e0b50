"""The hook that evaluates a recipe's policy before, between and after the steps, and gives the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from mathgrpo.distributed.world import FollowMain, interleaved
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluate, evaluation_names, read_evaluation, write_evaluation, write_verdict
from mathgrpo.evaluation.evaluate import RewardFault, write_records
from mathgrpo.evaluation.one_scale import scored_by
from mathgrpo.evaluation.records import ANSWER, Evaluation
from mathgrpo.evaluation.reward_change import unreached
from mathgrpo.models.lora import learning_failure
from mathgrpo.runs.hook import Hook, Run
from mathgrpo.runs.interrupt import StopWanted
from mathgrpo.runs.run_folder import verdict_text
from mathgrpo.training.prepare import Prepared
from mathgrpo.types import Problem


class Evaluations(Hook):
    """Evaluates on every held-out set what is not on disk already. Part of every process: problems are shared out."""

    def __init__(self, ready: Prepared, folder: Path) -> None:
        self._ready, self._folder = ready, folder

    def begin(self, run: Run) -> None:
        """Evaluate the policy before the first step."""
        if run.step == 0:
            self._all(run, "before")
        elif run.world.is_main:
            self._score_anew()

    def before_step(self, run: Run) -> None:
        """Evaluate every so many steps."""
        every = self._ready.recipe.training.evaluate_every
        if every and run.step and run.step % every == 0:
            self._all(run, f"step-{run.step}")

    def end(self, run: Run) -> None:
        """Evaluate the trained policy, and say whether it got better."""
        run.note([learning_failure(run.policy.model)])
        self._all(run, "after")
        for line in verdict_text(write_verdict(self._folder)) if run.world.is_main else []:
            run.tell("told", line)

    def _all(self, run: Run, name: str) -> None:
        there = run.world.from_main(lambda: evaluation_names(self._folder))
        sets = self._ready.problems
        for full_name, problems in ((name, sets.heldout), (f"{name}-templates", sets.heldout_templates)):
            if problems and full_name not in there:
                started = perf_counter()
                evaluation = self._one(run, full_name, problems)
                run.note([unreached(evaluation)] if name in ("before", "after") else ())
                run.tell("evaluated", full_name, evaluation, perf_counter() - started)

    def _score_anew(self) -> None:
        """Score the texts of evaluations that count something else as correct than this run does."""
        suite, sets = self._ready.suite, self._ready.problems
        wanted = ANSWER if suite.correct is None else str(suite.correct)
        for name in evaluation_names(self._folder):
            evaluation = read_evaluation(self._folder, name)
            if evaluation.settings.correct != wanted:
                problems = sets.heldout_templates if name.endswith("-templates") else sets.heldout
                write_evaluation(scored_by(suite, evaluation, problems), self._folder, name)

    def _one(self, run: Run, name: str, problems: Sequence[Problem]) -> Evaluation:
        """Return the evaluation of all problems, each process making that of its share.

        Raises: Interrupted, in all processes, when one of them was asked to stop; UserError when a reward fails.
        """
        ready, section = self._ready, self._ready.recipe.evaluation
        everything = len(problems) * (1 + section.samples)

        def on_progress(done: int, total: int) -> None:
            run.stop.heed()
            # the others are about as far
            run.tell("counted", f"evaluation {name}", done * everything // total, everything)

        share, made, fault = run.world.share(problems), None, ""
        with suppress(StopWanted):
            if share:
                on_progress(0, everything)
                try:
                    made = evaluate(
                        ready.engine, ready.policy, share, ready.fmt, max_new_tokens=ready.evaluation_tokens,
                        suite=ready.suite, samples=section.samples, seed=ready.recipe.run.seed, on_progress=on_progress,
                    )  # fmt: skip
                except RewardFault as error:
                    made, fault = error.evaluation, str(error)
        run.stop_if_asked()
        found = run.world.gather(made)
        faults = list(filter(None, run.world.gather(fault)))
        assert found[0] is not None
        records = [part.records if part is not None else () for part in found]
        if faults:
            every = tuple(record for part in records for record in part)
            raise self._failed(run, name, faults[0], Evaluation(every, found[0].settings))
        return Evaluation(tuple(interleaved(records)), found[0].settings)

    def _failed(self, run: Run, name: str, fault: str, evaluation: Evaluation) -> Exception:
        """Return what ends the run after a reward failed; weights and what was evaluated so far are kept."""
        if not run.world.is_main:
            return FollowMain(fault)
        path = write_records(evaluation, self._folder, name)
        run.keep()
        return UserError(
            f"evaluation {name}: {fault}; {len(evaluation.records):,} problems are in {path}; mend it and go on with "
            f"{run.resume_with}"
        )
