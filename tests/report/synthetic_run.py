"""A made-up run folder with everything a real one has: curves that learn, problems that get fixed, groups with spread.

Look at a page: PYTHONPATH=src:tests python -m report.synthetic_run FOLDER
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from mathgrpo.evaluation import (
    Evaluation,
    EvaluationSettings,
    GradedCompletion,
    ProblemRecord,
    write_evaluation,
    write_verdict,
)
from mathgrpo.types import question_id

RECIPE = """[run]
name = "demo-synthetic"
seed = 0

[model]
path = "starter"

[rewards]
correct = 1.0
format = 0.1

[rollout]
prompts_per_step = 16
group_size = 8

[training]
steps = {steps}
"""
NAMES = ("Janet", "Weng", "Tobi", "Mila", "Ravi", "Ana")
THINGS = ("eggs", "apples", "marbles", "stickers", "pencils")


def write_synthetic_run(
    folder: Path,
    *,
    steps: int = 60,
    groups: int = 16,
    problems: int = 500,
    templates: int = 200,
    samples: int = 0,
    finished: bool = True,
) -> Path:
    """Return the folder, filled; finished=False leaves it as a run interrupted before the after-evaluation."""
    dice = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(RECIPE.format(steps=steps))
    (folder / "run.json").write_text(
        json.dumps(
            {
                "name": "demo-synthetic",
                "command": "mathgrpo demo",
                "status": "finished" if finished else "interrupted",
                "device": "cpu, 2 cores",
                "engine": "native",
                "start_time": "2025-11-21T10:00:00+00:00",
                "end_time": "2025-11-21T10:07:12+00:00",
                "versions": {"python": "3.11.7", "torch": "2.13.0", "mathgrpo": "0.1.0"},
                "notes": ["16 generated rows left out: solution and answer disagree", "native engine: qwen2"],
            }
        )
    )
    done = steps if finished else steps * 6 // 10
    write_lines(folder / "metrics.jsonl", [metrics_row(dice, step, steps) for step in range(1, done + 1)])
    write_lines(
        folder / "rollouts.jsonl", [group_row(dice, step, steps) for step in range(1, done + 1) for _ in range(groups)]
    )
    heldout = [problem(dice, i) for i in range(problems)]
    unseen = [problem(dice, problems + i) for i in range(templates)]
    stages = {"before": 0.0, f"step-{steps // 2}": 0.6, "after": 1.0}
    for name, skill in stages.items():
        if finished or name != "after":
            write_evaluation(evaluation(heldout, skill, samples), folder, name)
            if templates and not name.startswith("step"):
                write_evaluation(evaluation(unseen, 0.7 * skill, samples), folder, f"{name}-templates")
    if finished:
        write_verdict(folder)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def metrics_row(dice: random.Random, step: int, steps: int) -> dict[str, Any]:
    """Return one line of metrics.jsonl."""
    t = step / steps
    accuracy = 0.38 + 0.3 * t + dice.gauss(0, 0.03)
    rollout, reward, update = dice.uniform(2.6, 3.2) + t, dice.uniform(0.02, 0.05), dice.uniform(1.9, 2.3)
    return {
        "step": step,
        "reward": accuracy + 0.08,
        "reward_std": 0.34 - 0.14 * t + dice.gauss(0, 0.01),
        "reward/correct": accuracy,
        "reward/format": 0.8 + 0.19 * t + dice.gauss(0, 0.005),
        "accuracy": accuracy,
        "format_rate": 0.85 + 0.14 * t,
        "frac_reward_zero_std": 0.25 + 0.2 * t + dice.gauss(0, 0.04),
        "worked_rate": min(0.5 + 0.55 * t, 1.0),
        "entropy": 0.7 - 0.45 * t + dice.gauss(0, 0.02),
        "grad_norm": 0.4 + abs(dice.gauss(0, 0.1)),
        "loss": dice.gauss(0, 0.01),
        "clip_ratio/low": 0.0,
        "clip_ratio/high": 0.0,
        "completions/mean_length": 60 + 45 * t + dice.gauss(0, 3),
        "completions/clipped_ratio": 0.04 * (1 - t),
        "sampling/logprob_difference/mean": 2e-7,
        "sampling/logprob_difference/max": dice.uniform(1e-6, 9e-6),
        "learning_rate": 1e-4 * min(step / 6, 1),
        "weights_moved": 0.97,
        "time/rollout": rollout,
        "time/reward": reward,
        "time/update": update,
        "time/step": rollout + reward + update + 0.1,
        "tokens_per_s": dice.uniform(2400, 3000),
    }


def problem(dice: random.Random, i: int) -> tuple[str, int, int, str]:
    """Return question, its two numbers and its template."""
    a, b, name, thing = dice.randint(3, 90), dice.randint(2, 60), dice.choice(NAMES), dice.choice(THINGS)
    question = (
        f"{name} has {a} {thing} at home (box {i}). A neighbour brings {b} more on Monday, on Tuesday as many again "
        f"as on Monday. How many {thing} does {name} have then?"
    )
    return question, a, b, f"synthetic/{i % 12}"


def evaluation(problems: list[tuple[str, int, int, str]], skill: float, samples: int) -> Evaluation:
    """Return an evaluation whose completions get better with skill, from 0 to 1."""
    dice, records = random.Random(1), []
    for question, a, b, template in problems:
        drawn = [completion(dice, a, b, skill) for _ in range(samples + 1)]
        records.append(
            ProblemRecord(question_id(question), question, str(a + 2 * b), template, drawn[0], tuple(drawn[1:]))
        )
    return Evaluation(tuple(records), EvaluationSettings(256, samples, format="xml", model="starter", engine="native"))


def completion(dice: random.Random, a: int, b: int, skill: float) -> GradedCompletion:
    """Return one graded completion of the sum a + 2 b."""
    readable, worked = dice.random() < 0.88 + 0.11 * skill, dice.random() < 0.5 + 0.45 * skill
    right = dice.random() < (0.62 + 0.1 * skill if worked else 0.27)
    value = a + 2 * b + (0 if right else dice.choice((-10, -1, 1, b, 10)))
    reasoning = (
        f"On Monday there are {a} + {b} = {a + b}.\nOn Tuesday {b} more come: {a + b} + {b} = {value}."
        if worked
        else "It is easy to see."
    )
    text = (
        f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{value}\n</answer>"
        if readable
        else f"<reasoning>\n{reasoning}\nSo it is {value}"
    )
    verdict = ("correct" if right else "wrong") if readable else "no_answer"
    return GradedCompletion(
        text,
        str(value) if readable else None,
        verdict,
        "correct" if right else "wrong",
        readable,
        readable,
        worked,
        len(text) // 3,
        "eos" if readable else "length",
        "number" if readable else "",
        ("the same number as the gold" if right else "another number than the gold") if readable else "no answer block",
    )


def group_row(dice: random.Random, step: int, steps: int) -> dict[str, Any]:
    """Return one line of rollouts.jsonl."""
    question, a, b, _ = problem(dice, dice.randrange(4000))
    drawn = [completion(dice, a, b, step / steps) for _ in range(8)]
    rewards = [1.0 * c.correct + 0.1 * c.format_strict for c in drawn]
    mean = sum(rewards) / len(rewards)
    return {
        "step": step,
        "problem_id": question_id(question),
        "question": question,
        "gold": str(a + 2 * b),
        "prompt_tokens": 90,
        "completions": [
            {
                "text": c.text,
                "tokens": c.tokens,
                "finish_reason": c.finish_reason,
                "verdict": c.verdict,
                "read": c.answer or "",
                "rule": c.rule,
                "why": c.why,
                "reward": r,
                "reward_parts": {"correct": 1.0 * c.correct, "format": 1.0 * c.format_strict},
                "advantage": r - mean,
                "logprob_mean": -0.3,
            }
            for c, r in zip(drawn, rewards, strict=True)
        ],
    }


if __name__ == "__main__":
    from mathgrpo.report import write_report

    print(write_report(write_synthetic_run(Path(sys.argv[1]), samples=4)))
