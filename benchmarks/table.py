"""Results as Markdown, and the lines a run ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.repeats import Spread, paired_ratio, spread
from benchmarks.results import Axis, Experiment, Gradient, Results, Row, Sample
from benchmarks.scaling import costs, rises

HEAD = (
    "| | step, s | × | rollout, s | rollout, tok/s | update, s | update, tok/s | peak, MB | tokens a step |\n"
    "|---|---|---|---|---|---|---|---|---|"
)

IDLE_SHARE = 0.02
"""Processor time of waiting contestants, over the time of all steps, above which a table warns."""


def markdown(results: Results) -> str:
    """Return a results file as Markdown, for the documentation to include."""
    parts = [origin(results)]
    parts += [experiment_table(experiment) for experiment in results.experiments]
    parts += [axis_table(axis) for axis in results.scaling]
    if results.notes:
        parts.append("\n".join(f"- {note}" for note in results.notes))
    return "\n\n".join(parts) + "\n"


def experiment_table(experiment: Experiment) -> str:
    """Return one experiment's table, with what its rows need to be read."""
    settings, rows = experiment.settings, experiment.rows
    length = "exactly" if settings.mode == "forced" else "up to"
    lines = [
        f"### {experiment.title}",
        "",
        f"{settings.prompts_per_step} prompts × {settings.group_size} completions, {length} "
        f"{settings.max_new_tokens} new tokens, model {settings.model}, {settings.dtype}, {settings.device}; "
        f"{_repeats(rows)}. Zero-advantage groups are computed in every row that does not say otherwise.",
        "",
        HEAD,
    ]
    reference = row_of(experiment, "ours")
    lines += [_line(row, reference) for row in rows]
    lines += ["", *_remarks(experiment)]
    return "\n".join(lines).rstrip()


def axis_table(axis: Axis) -> str:
    """Return one scaling axis' table: cost per unique token, ours and where measured TRL's."""
    unit = "µs per unique token and million parameters" if axis.per_parameter else "µs per unique token"
    ours, trl = costs(axis), costs(axis, "trl")
    lines = [f"### {axis.title}", "", f"| {axis.name} | mathgrpo, {unit} | TRL `generate` |", "|---|---|---|"]
    lines += [
        f"| {point.value} | {_number(mine)} | {_number(theirs)} |"
        for point, mine, theirs in zip(axis.points, ours, trl, strict=True)
    ]
    verdict = "**rises** along this axis" if rises(ours) else "stays flat or falls"
    return "\n".join([*lines, "", f"Ours {verdict}."])


def step_ratio_line(experiment: Experiment) -> str:
    """Return the last line of a run: how many times longer a step of the nearest TRL row takes, in one run."""
    ours, nearest = row_of(experiment, "ours"), nearest_trl(experiment)
    if ours is None or nearest is None or not ours.samples:
        return "step ratio: not measured, a side is missing (see the failures above)"
    whole = ratio(nearest, ours, lambda s: s.seconds)
    rollout = ratio(nearest, ours, lambda s: s.rollout_s)
    update = ratio(nearest, ours, lambda s: s.update_s)
    if whole is None or rollout is None or update is None:
        return "step ratio: not measured, the two sides share no step"
    return (
        f"step ratio {whole.median:.2f}: a step of {nearest.contestant.label} takes {whole.median:.2f} times as long "
        f"as mathgrpo's (quartiles {whole.low:.2f} to {whole.high:.2f}, {len(ours.samples)} steps; rollout "
        f"{rollout.median:.2f}, update {update.median:.2f})"
    )


def nearest_trl(experiment: Experiment) -> Row | None:
    """Return the TRL row whose steps take the least, beside ours on the same prompts: of all that took part, those
    with an environment made for them too."""
    ours = row_of(experiment, "ours")
    rows = [r for r in experiment.rows if r.contestant.kind == "trl" and r.samples]
    found = [(each.median, row) for row in rows if ours and (each := ratio(row, ours, lambda s: s.seconds))]
    return min(found, key=lambda pair: pair[0])[1] if found else next(iter(rows), None)


def ratio(theirs: Row, ours: Row, part: Callable[[Sample], float]) -> Spread | None:
    """Return the spread of theirs / ours over steps on the same prompts."""
    return paired_ratio({s.step: part(s) for s in theirs.samples}, {s.step: part(s) for s in ours.samples})


def origin(results: Results) -> str:
    """Return when, how, where and with which versions something was measured, in three lines."""
    machine, versions = results.machine, results.versions
    flags = ", ".join(machine.get("flags", [])) or "no AVX2"
    gpu = f"{machine['gpu']}; " if "gpu" in machine else ""
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured on {results.date} in {results.seconds / 60:.0f} minutes by `{results.command}`.\n"
        f"Machine: {gpu}{machine.get('cpu')}, {machine.get('cores')} cores ({flags}), {machine.get('memory_gb')} GB, "
        f"{machine.get('system')}.\nVersions: {names}."
    )


def _repeats(rows: Sequence[Row]) -> str:
    timed = max((len(row.samples) for row in rows), default=0)
    warmup = max((len(row.warmup) for row in rows), default=0)
    return f"median and quartiles of {timed} steps after {warmup} warm-up steps that are not counted"


def row_of(experiment: Experiment, name: str) -> Row | None:
    """Return a contestant's row, None where it took no part."""
    return next((row for row in experiment.rows if row.contestant.name == name), None)


def _line(row: Row, reference: Row | None) -> str:
    label, samples = row.contestant.label, row.samples
    if not samples:
        return f"| {label} | not measured | | | | | | | |"
    rollout_only = row.contestant.kind == "vllm"
    steps = spread([s.seconds for s in samples])
    compared = ratio(row, reference, lambda s: s.rollout_s if rollout_only else s.seconds) if reference else None
    update = "" if rollout_only else _spread([s.update_s for s in samples])
    update_rate = "" if rollout_only else _rate([s.tokens / s.update_s for s in samples if s.update_s > 0])
    cells = [
        label, "" if rollout_only else _cell(steps), f"{compared.median:.2f}" if compared else "",
        _spread([s.rollout_s for s in samples]), _rate([s.tokens / s.rollout_s for s in samples if s.rollout_s > 0]),
        update, update_rate, f"{samples[-1].peak_bytes / 1e6:,.0f}", _rate([s.tokens for s in samples]),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _remarks(experiment: Experiment) -> list[str]:
    remarks = [f"- {row.contestant.label}: {row.contestant.note}" for row in experiment.rows if row.contestant.note]
    remarks += [f"- {row.contestant.label} left the round: {row.failure}" for row in experiment.rows if row.failure]
    remarks += _gradient_remarks(experiment.gradient) if experiment.gradient is not None else []
    difference = [s.logprob_difference for row in experiment.rows for s in row.samples if s.logprob_difference]
    if difference:
        remarks.append(f"- mathgrpo, mean |Δ log-prob| of sampler and trainer: {spread(difference).median:.1e}.")
    remarks += _speed_remarks([s for row in experiment.rows if row.contestant.name == "ours" for s in row.samples])
    idle = sum(row.idle_cpu_s for row in experiment.rows)
    busy = sum(s.seconds for row in experiment.rows for s in (*row.warmup, *row.samples))
    if idle > IDLE_SHARE * busy:
        remarks.append(f"- **Contestants were not idle between their turns**: {idle:.1f} s of processor time in all.")
    imported = {row.contestant.kind: row.imported_bytes for row in experiment.rows if row.imported_bytes}
    if imported:
        shown = ", ".join(f"{kind} {size / 1e6:,.0f} MB" for kind, size in imported.items())
        remarks.append(f"- Of the peak, before there is a model: {shown}.")
    return remarks


def _gradient_remarks(gradient: Gradient) -> list[str]:
    tokens = f"on {gradient.tokens:,} tokens that TRL sampled"
    if gradient.rounding is None or gradient.trl_rounding is None:
        return [
            f"- Same gradient: {tokens}, the L2 norm of the difference is {gradient.relative:.1e} of TRL's gradient."
        ]
    return [
        f"- Same gradient within its precision: {tokens}, ours is {gradient.rounding:.1e} from the float32 gradient of "
        f"the same batch (L2 norm of the difference over its norm), TRL's {gradient.trl_rounding:.1e}."
    ]


def _speed_remarks(samples: Sequence[Sample]) -> list[str]:
    """Return how near the machine's limit we are, by the peaks measured on it."""
    names = {"mfu/update": "update {:.0f} % MFU", "roofline/rollout": "rollout {:.0f} % of the roofline"}
    found = {name: [s.speed[name] for s in samples if name in s.speed] for name in names}
    shown = [text.format(100 * spread(found[name]).median) for name, text in names.items() if found[name]]
    return [f"- mathgrpo against this machine's measured peaks: {', '.join(shown)}."] if shown else []


def _spread(values: Sequence[float]) -> str:
    return _cell(spread(values)) if values else ""


def _cell(values: Spread) -> str:
    return f"{values.median:.3g} ({values.low:.3g}–{values.high:.3g})"


def _rate(values: Sequence[float]) -> str:
    return f"{spread(values).median:,.0f}" if values else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}"
