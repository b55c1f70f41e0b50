"""Evaluations that count different things as correct, brought to one scale before they are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mathgrpo.answers import grade_completion
from mathgrpo.evaluation.records import ANSWER, Evaluation, GradedCompletion, ProblemRecord
from mathgrpo.formats import FORMATS, get_format
from mathgrpo.types import Problem, Verdict

if TYPE_CHECKING:
    from mathgrpo.rewards import RewardSuite

Judge = Callable[[ProblemRecord, GradedCompletion], GradedCompletion]


def on_one_scale(before: Evaluation, after: Evaluation) -> tuple[Evaluation, Evaluation]:
    """Return two evaluations that count the same as correct: what the second does where the first knows the reward.

    Else what both know, right answers, graded again from the texts.
    """
    if before.settings.correct == after.settings.correct:
        return before, after
    by_reward = _by_reward(before, after.settings.correct)
    return (by_reward, after) if by_reward is not None else (by_answer(before), by_answer(after))


def by_answer(evaluation: Evaluation) -> Evaluation:
    """Return an evaluation with the grader's verdicts on the answers; one that has them is returned as it is."""
    if evaluation.settings.correct == ANSWER or evaluation.settings.format not in FORMATS:
        return evaluation
    fmt = get_format(evaluation.settings.format)

    def judge(record: ProblemRecord, completion: GradedCompletion) -> GradedCompletion:
        graded = grade_completion(completion.text, record.gold, fmt, question=record.question)
        return with_verdicts(completion, graded.verdict, graded.flexible_verdict)

    return _judged(evaluation, ANSWER, judge)


def scored_by(suite: RewardSuite, evaluation: Evaluation, problems: Sequence[Problem]) -> Evaluation:
    """Return an evaluation with the rewards and the verdicts of a suite on its texts.

    Token ids are not in an evaluation's files: rewards that need them do not apply. An evaluation of other problems is
    returned as it is.
    Raises: UserError when a reward function fails.
    """
    from mathgrpo.formats.chat import problem_messages

    by_id = {problem.id: problem for problem in problems}
    records = evaluation.records
    if not all(record.id in by_id for record in records):
        return evaluation
    rows = [(by_id[record.id], each) for record in records for each in (record.greedy, *record.samples)]
    names = dict.fromkeys(name for problem in problems for name in problem.columns)
    columns = {name: [problem.columns.get(name) for problem, _ in rows] for name in names}
    columns |= {"question": [p.question for p, _ in rows], "answer": [p.answer for p, _ in rows]}
    prompts = [problem_messages(problem, suite.fmt) for problem, _ in rows]
    scores = suite.score(prompts, [each.text for _, each in rows], columns)
    found = (
        (graded, {name: values[i] for name, values in scores.parts.items()}) for i, graded in enumerate(scores.grades)
    )

    def judge(record: ProblemRecord, completion: GradedCompletion) -> GradedCompletion:
        graded, rewards = next(found)
        read = replace(
            completion, answer=graded.answer, format_strict=graded.format_strict, format_soft=graded.format_soft,
            worked=graded.worked, rewards=rewards,
        )  # fmt: skip
        return with_verdicts(read, graded.verdict, graded.flexible_verdict)

    return _judged(evaluation, ANSWER if suite.correct is None else str(suite.correct), judge)


def with_verdicts(completion: GradedCompletion, strict: Verdict, flexible: Verdict) -> GradedCompletion:
    """Return a completion with other verdicts."""
    return replace(
        completion, verdict=strict.outcome, flexible_verdict=flexible.outcome, rule=strict.rule, why=strict.why
    )


def _by_reward(evaluation: Evaluation, correct: str) -> Evaluation | None:
    """Return an evaluation judged by a reward that it has a value of for every completion; None where it has not."""
    name, _, threshold = correct.rpartition(" >= ")
    every = [c.rewards.get(name) for r in evaluation.records for c in (r.greedy, *r.samples)]
    if not name or any(value is None for value in every):
        return None
    from mathgrpo.rewards.criterion import Criterion

    criterion = Criterion(name, float(threshold))

    def judge(record: ProblemRecord, completion: GradedCompletion) -> GradedCompletion:
        value = completion.rewards[name]
        assert value is not None
        verdict = criterion.verdict(value, completion.answer)
        return with_verdicts(completion, verdict, verdict)

    return _judged(evaluation, correct, judge)


def _judged(evaluation: Evaluation, correct: str, judge: Judge) -> Evaluation:
    records = tuple(
        replace(record, greedy=judge(record, record.greedy), samples=tuple(judge(record, c) for c in record.samples))
        for record in evaluation.records
    )
    return Evaluation(records, replace(evaluation.settings, correct=correct))
