"""How good is a model, did it get better, and why: evaluations, their files, and their paired comparison."""

from __future__ import annotations

from mathgrpo.evaluation.compare import Comparison, compare, verdict_line
from mathgrpo.evaluation.evaluate import evaluate, evaluation_names, read_evaluation, write_evaluation
from mathgrpo.evaluation.records import Evaluation, EvaluationSettings, GradedCompletion, ProblemRecord
from mathgrpo.evaluation.reward_change import RewardChange, reward_changes
from mathgrpo.evaluation.run_verdict import GainParts, SetVerdict, gain_parts, read_verdicts, write_verdict

__all__ = [
    "Comparison",
    "Evaluation",
    "EvaluationSettings",
    "GainParts",
    "GradedCompletion",
    "ProblemRecord",
    "RewardChange",
    "SetVerdict",
    "compare",
    "evaluate",
    "evaluation_names",
    "gain_parts",
    "read_evaluation",
    "read_verdicts",
    "reward_changes",
    "verdict_line",
    "write_evaluation",
    "write_verdict",
]
