"""What came of a run, and what its speed was limited by, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mathgrpo.evaluation.compare import signed_points
from mathgrpo.evaluation.run_verdict import SUFFIXES, SetVerdict, rates, verdicts_of
from mathgrpo.report.charts import gain_chart
from mathgrpo.report.read_run import RunData
from mathgrpo.report.safe_text import number, percent, unbroken, whole
from mathgrpo.text import signed

SET_TITLES = {"heldout": "Held-out problems", "templates": "Held-out templates"}


def run_verdicts(run: RunData) -> list[SetVerdict]:
    """Return the verdict on each problem set evaluated before and after, greedy and, with samples, sampled."""
    return list(verdicts_of(run.evaluations).values())


def verdict_view(verdict: SetVerdict, run: RunData) -> dict[str, Any]:
    """Return what the page shows of a verdict: its line, its parts as numbers and picture, the rates behind."""
    comparison, parts = verdict.comparison, verdict.parts
    suffix = SUFFIXES[verdict.problem_set]
    chains = [rates(run.evaluations[f"{when}{suffix}"].records, comparison.metric) for when in ("before", "after")]
    named = [("format", parts.format), ("working", parts.working), ("arithmetic", parts.arithmetic)]
    return {
        "title": SET_TITLES[verdict.problem_set] + (", sampled" if comparison.metric == "sampled" else ""),
        "line": unbroken(verdict.line),
        "comparison": comparison,
        "tone": "none" if not comparison.significant else "good" if comparison.difference > 0 else "bad",
        "gain": signed_points(comparison.difference),
        "parts": [(name, signed(part, 1)) for name, part in named],
        "chart": gain_chart(
            f"gain-{verdict.problem_set}-{comparison.metric}", 100 * comparison.before, 100 * comparison.after, named
        ),
        "chain": [(label, *(_share(getattr(rate, name)) for rate in chains)) for name, label in CHAIN.items()],
    }


CHAIN = {
    "readable": "answer readable in the format",
    "worked": "of these, worked out",
    "right_worked": "correct when worked out",
    "right_quick": "correct when answered at once",
}


def _share(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else percent(value)


def before_after_tables(run: RunData) -> list[dict[str, Any]]:
    """Return a before/after table of every number, one for each problem set that has been evaluated."""
    tables = []
    for problem_set, suffix in SUFFIXES.items():
        sides = [
            run.evaluations[name].summary() if (name := f"{when}{suffix}") in run.evaluations else None
            for when in ("before", "after")
        ]
        if any(sides):
            tables.append({"title": SET_TITLES[problem_set], "rows": _table_rows(sides[0] or {}, sides[1] or {})})
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


def _table_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, str]]:
    sampled = dict.fromkeys(n.removeprefix("sampled/") for n in (*before, *after) if n.startswith(RATES_OF_SAMPLES))
    names = [("", "greedy", name, label) for name, label in ROWS.items()]
    names += [("sampled/", "sampled", name, label) for name, label in (ROWS | {n: n for n in sampled}).items()]
    return [
        {"kind": kind, "label": label} | _cells(before.get(prefix + name), after.get(prefix + name), name)
        for prefix, kind, name, label in names
        if before.get(prefix + name) is not None or after.get(prefix + name) is not None
    ]


def _cells(old: float | None, new: float | None, name: str) -> dict[str, str]:
    in_tokens = name == "mean_length"
    show, difference = (number, partial(signed, decimals=1)) if in_tokens else (percent, signed_points)
    shown = ["\N{EN DASH}" if value is None else show(value) for value in (old, new)]
    change = "" if old is None or new is None else difference(new - old)
    return {"before": shown[0], "after": shown[1], "change": change}


EXPLAINED = 0.5
"""A bound that explains at least this share of a part's time is what limits it; otherwise it is overhead."""
FEW_ROWS = 0.4
"""Below this share of all completions decoded together on average, the long ones are waited for."""
BUSY = 1.05
"""A share of the machine above this means that the machine was measured while it was busy."""
PARTS = ("rollout", "reward", "update")
_UNMEASURED = "What limits it is not known: the run did not log its share of the machine."
_LARGER = "Larger steps spread it: raise rollout.prompts_per_step or rollout.group_size."


def speed_summary(run: RunData) -> str:
    """Return what limited the run and which setting to change; "" when it logged no times.

    All numbers are over the second half of the steps: the first ones warm up. Shares of the machine are weighted by
    time, as the sums they stand for.
    """
    rows = _settled(run.metrics)
    seconds = {part: sum(row.get(f"time/{part}", 0.0) for row in rows) for part in PARTS}
    in_all = sum(seconds.values())
    if not in_all:
        return ""
    longest = max(PARTS, key=lambda part: seconds[part])
    share = f"{whole(seconds[longest] / in_all)} of the time"
    explain = {"rollout": _rollout_limit, "update": _update_limit, "reward": _reward_limit}[longest]
    return f"The {longest} takes {share}. {explain(rows, run)}{_doubt(rows)}"


def _rollout_limit(rows: Sequence[Mapping[str, float]], run: RunData) -> str:
    reached, memory = _mean(rows, "roofline/rollout", "rollout"), _mean(rows, "roofline/rollout_memory", "rollout")
    if reached is None:
        return _UNMEASURED
    if reached >= EXPLAINED and memory is not None:
        if memory >= 0.5:
            return (
                f"It is limited by memory bandwidth ({whole(reached)} of the roofline): more completions decoded "
                "together cost almost nothing, so raise rollout.group_size or rollout.prompts_per_step."
            )
        return (
            f"It is limited by arithmetic ({whole(reached)} of the roofline): only fewer or cheaper tokens help, by "
            "a lower rollout.max_new_tokens or model.dtype."
        )
    return f"It is limited by overhead: {whole(reached)} of the roofline. {_overhead_remedy(rows, run)}"


def _overhead_remedy(rows: Sequence[Mapping[str, float]], run: RunData) -> str:
    """Return what brings a rollout nearer to its roofline: the native engine, more rows, or rows of like length."""
    rollout, together = run.section("rollout"), _mean(rows, "rows_per_decode_step", "rollout")
    if run.info.get("engine") == "generate":
        return "The generate engine is the slow fallback: the notes below say why."
    completions = (rollout.get("prompts_per_step") or 0) * (rollout.get("group_size") or 0)
    if together is not None and completions and together < FEW_ROWS * completions:
        return (
            f"Of {completions:,} completions only {together:.0f} are decoded together on average, the others wait for "
            "the longest: raise rollout.prompts_per_step, or lower rollout.max_new_tokens."
        )
    return _LARGER


def _update_limit(rows: Sequence[Mapping[str, float]], run: RunData) -> str:
    reached = _mean(rows, "mfu/update", "update")
    if reached is None:
        return _UNMEASURED
    if reached >= EXPLAINED:
        return (
            f"It is limited by arithmetic ({whole(reached)} MFU against the peak measured here): only less of it "
            "helps, such as fewer grpo.updates_per_rollout or a cheaper model.dtype."
        )
    return f"It is limited by overhead: {whole(reached)} MFU against the peak measured here. {_LARGER}"


def _reward_limit(rows: Sequence[Mapping[str, float]], run: RunData) -> str:
    del rows
    names = run.section("rewards")
    return f"The machine's arithmetic waits for the reward functions ({', '.join(map(str, names))}): make them faster."


def _doubt(rows: Sequence[Mapping[str, float]]) -> str:
    """Return a warning when a share of the machine is impossible."""
    highest = max((row.get(name, 0.0) for row in rows for name in ("roofline/rollout", "mfu/update")), default=0.0)
    if highest <= BUSY:
        return ""
    return (
        f" A share of {whole(highest)} is impossible: the machine was busy when it was measured; delete the "
        "folder roofline in the cache ($MATHGRPO_CACHE, else ~/.cache/mathgrpo) to measure it again."
    )


def _settled(metrics: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> list[dict[str, float]]:
    """Return the second half of the steps, one row of metrics each."""
    rows: dict[int, dict[str, float]] = {}
    for name, (steps, values) in metrics.items():
        for step, value in zip(steps, values, strict=True):
            rows.setdefault(step, {})[name] = value
    return [rows[step] for step in sorted(rows)][len(rows) // 2 :]


def _mean(rows: Sequence[Mapping[str, float]], name: str, part: str) -> float | None:
    """Return a metric's mean weighted by the time of the part it is about; None when no row has it."""
    pairs = [(row[name], row.get(f"time/{part}", 0.0)) for row in rows if name in row]
    seconds = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / seconds if seconds else None
