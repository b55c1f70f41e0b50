"""What came of a run, and what its speed was limited by, in words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mathgrpo.evaluation.compare import signed_points
from mathgrpo.evaluation.one_scale import on_one_scale
from mathgrpo.evaluation.records import counted_by, reward_label
from mathgrpo.evaluation.run_verdict import SUFFIXES, SetVerdict, rates
from mathgrpo.report.charts import draw_gain, svg
from mathgrpo.report.read_run import Metrics, RunData
from mathgrpo.report.safe_text import percent, unbroken
from mathgrpo.text import number, signed

SET_TITLES = {"heldout": "Held-out problems", "templates": "Held-out templates"}


def verdict_view(verdict: SetVerdict, run: RunData) -> dict[str, Any]:
    """Return what the page shows of a verdict: its line, its parts as numbers and picture, the rates behind."""
    comparison, parts = verdict.comparison, verdict.parts
    suffix = SUFFIXES[verdict.problem_set]
    both = on_one_scale(run.evaluations[f"before{suffix}"], run.evaluations[f"after{suffix}"])
    chains = [rates(evaluation.records, comparison.metric) for evaluation in both]
    better = "solutions" if counted_by(comparison.correct) else "arithmetic"
    named = [("format", parts.format), ("working", parts.working), (better, parts.arithmetic)]
    return {
        "title": SET_TITLES[verdict.problem_set] + (", sampled" if comparison.metric == "sampled" else ""),
        "line": unbroken(verdict.line),
        "rewards": [unbroken(change.line) for change in verdict.rewards],
        "comparison": comparison,
        "tone": "none" if not comparison.significant else "good" if comparison.difference > 0 else "bad",
        "gain": signed_points(comparison.difference),
        "parts": [(name, signed(part, 1)) for name, part in named],
        "chart": svg(
            f"gain-{verdict.problem_set}-{comparison.metric}",
            lambda axes: draw_gain(axes, 100 * comparison.before, 100 * comparison.after, named),
            height=1.9, left=0.015,
        ),
        "chain": [(label, *(percent(getattr(rate, name)) for rate in chains)) for name, label in CHAIN.items()],
    }  # fmt: skip


CHAIN = {
    "readable": "answer readable in the format",
    "worked": "of these, worked out",
    "right_worked": "correct when worked out",
    "right_quick": "correct when answered at once",
}


def before_after_tables(run: RunData) -> list[dict[str, Any]]:
    """Return a before/after table of every number, one for each problem set that has been evaluated."""
    tables = []
    for problem_set, suffix in SUFFIXES.items():
        there = [run.evaluations.get(f"{when}{suffix}") for when in ("before", "after")]
        by = next((evaluation.by for evaluation in reversed(there) if evaluation is not None), "")
        sides = [{} if evaluation is None else evaluation.summary() for evaluation in there]
        if any(sides):
            tables.append({"title": SET_TITLES[problem_set], "rows": _table_rows(sides[0], sides[1], by)})
    return tables


ROWS = {
    "accuracy": "accuracy, in the format",
    "accuracy_flexible": "accuracy, answer anywhere",
    "format_rate": "format kept",
    "format_rate_soft": "format kept, loosely",
    "worked_rate": "worked out",
    "clipped_ratio": "cut off",
    "mean_length": "mean length, tokens",
}
RATES_OF_SAMPLES = ("sampled/pass@", "sampled/maj@")


def _table_rows(before: Mapping[str, Any], after: Mapping[str, Any], by: str) -> list[dict[str, str]]:
    """Return the rows of a table. by: what decides on correct, "" for right answers."""
    sampled = dict.fromkeys(n.removeprefix("sampled/") for n in (*before, *after) if n.startswith(RATES_OF_SAMPLES))
    rewards = dict.fromkeys(n for n in (*before, *after) if n.startswith("reward/"))
    labels = ROWS | {name: f"reward {reward_label(name.removeprefix('reward/'))}" for name in rewards}
    if by:
        labels = {"accuracy": f"accuracy{by}", **{k: v for k, v in labels.items() if not k.startswith("accuracy")}}
    names = [("", "greedy", name, label) for name, label in labels.items()]
    names += [("sampled/", "sampled", name, label) for name, label in (labels | {n: n for n in sampled}).items()]
    rows = []
    for prefix, kind, name, label in names:
        old, new = before.get(prefix + name), after.get(prefix + name)
        as_number = name == "mean_length" or name in rewards
        show = number if as_number else percent
        difference = partial(signed, decimals=3 if name in rewards else 1) if as_number else signed_points
        change = "" if old is None or new is None else difference(new - old)
        if old is not None or new is not None:
            rows.append({"kind": kind, "label": label, "before": show(old), "after": show(new), "change": change})
    return rows


EXPLAINED = 0.5
"""A bound that explains at least this share of a part's time is what limits it; otherwise it is overhead."""
FEW_ROWS = 0.4
"""Below this share of all completions decoded together on average, the long ones are waited for."""
BUSY = 1.05
"""A share of the machine above this means that the machine was measured while it was busy."""
MEASURED = {
    "rollout": ("roofline/rollout", "of the roofline"),
    "update": ("mfu/update", "MFU against the peak measured here"),
}
"""Part of a step -> the share of the machine that it reached, and of what the share is."""
ANSWERS = {
    "memory": "memory bandwidth ({}): more completions decoded together cost almost nothing, so raise "
    "rollout.group_size or rollout.prompts_per_step.",
    "rollout": "arithmetic ({}): only fewer or cheaper tokens help, by a lower rollout.max_new_tokens or model.dtype.",
    "update": "arithmetic ({}): only less of it helps, such as fewer grpo.updates_per_rollout or a cheaper "
    "model.dtype.",
}
"""What limits a part that comes near its bound, and what helps."""


def speed_summary(run: RunData) -> str:
    """Return what limited the run and which setting to change; "" when it logged no times.

    All numbers are over the second half of the steps: the first ones warm up. Shares of the machine are weighted by
    time, as the sums they stand for.
    """
    steps = sorted({step for points in run.metrics.values() for step in points})
    settled = set(steps[len(steps) // 2 :])
    metrics = {name: {s: v for s, v in points.items() if s in settled} for name, points in run.metrics.items()}
    seconds = {part: sum(metrics.get(f"time/{part}", {}).values()) for part in ("rollout", "reward", "update")}
    in_all = sum(seconds.values())
    if not in_all:
        return ""
    longest = max(seconds, key=lambda part: seconds[part])
    share = f"{percent(seconds[longest] / in_all, 0)} of the time"
    return f"The {longest} takes {share}. {_limit(longest, metrics, run)}{_doubt(metrics)}"


def _limit(part: str, metrics: Metrics, run: RunData) -> str:
    """Return what limits the longest part of a step, and what helps."""
    if part == "reward":
        names = ", ".join(map(str, run.section("rewards")))
        return f"The machine's arithmetic waits for the reward functions ({names}): make them faster."
    name, of_what = MEASURED[part]
    reached = _mean(metrics, name, part)
    if reached is None:
        return "What limits it is not known: the run did not log its share of the machine."
    share = f"{percent(reached, 0)} {of_what}"
    if reached < EXPLAINED:
        return f"It is limited by overhead: {share}. {_overhead_remedy(part, metrics, run)}"
    memory = _mean(metrics, "roofline/rollout_memory", part) if part == "rollout" else None
    return f"It is limited by {ANSWERS['memory' if memory is not None and memory >= 0.5 else part].format(share)}"


def _overhead_remedy(part: str, metrics: Metrics, run: RunData) -> str:
    """Return what brings a part nearer to its bound; a rollout: the native engine, more rows, rows of like length."""
    if part == "rollout" and run.info.get("engine") in ("fallback", "generate"):  # generate: its earlier name
        return "The rollout engine is the slow fallback: the notes below say why."
    rollout, together = run.section("rollout"), _mean(metrics, "rows_per_decode_step", part)
    completions = (rollout.get("prompts_per_step") or 0) * (rollout.get("group_size") or 0)
    if part == "rollout" and together is not None and completions and together < FEW_ROWS * completions:
        return (
            f"Of {completions:,} completions only {together:.0f} are decoded together on average, the others wait for "
            "the longest: raise rollout.prompts_per_step, or lower rollout.max_new_tokens."
        )
    return "Larger steps spread it: raise rollout.prompts_per_step or rollout.group_size."


def _doubt(metrics: Metrics) -> str:
    """Return a warning when a share of the machine is impossible."""
    highest = max((v for name, _ in MEASURED.values() for v in metrics.get(name, {}).values()), default=0.0)
    if highest <= BUSY:
        return ""
    return (
        f" A share of {percent(highest, 0)} is impossible: the machine was busy when it was measured; delete the "
        "folder roofline in the cache ($MATHGRPO_CACHE, else ~/.cache/mathgrpo) to measure it again."
    )


def _mean(metrics: Metrics, name: str, part: str) -> float | None:
    """Return a metric's mean weighted by the time of the part it is about; None when no step has it."""
    times = metrics.get(f"time/{part}", {})
    pairs = [(value, times.get(step, 0.0)) for step, value in metrics.get(name, {}).items()]
    seconds = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / seconds if seconds else None
