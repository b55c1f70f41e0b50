"""What a run's speed was limited by, in words: the part that took longest, its bound, and the setting to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mathgrpo.report.read_run import RunData
from mathgrpo.report.safe_text import whole

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
