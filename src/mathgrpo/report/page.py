"""The report page: a run's data in the templates beside this file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mathgrpo.evaluation.run_verdict import SetVerdict, verdicts_of
from mathgrpo.report.charts import NUM_COLOURS
from mathgrpo.report.curves import chart_sections
from mathgrpo.report.items import OUTCOMES, Shown, shown_groups, shown_problems
from mathgrpo.report.outcome import SET_TITLES, before_after_tables, verdict_view
from mathgrpo.report.read_run import RunData
from mathgrpo.report.safe_text import brief, clean, percent, shorten
from mathgrpo.text import duration, number, signed

TEMPLATES = Path(__file__).parent / "templates"
PAGE_BYTES = 1_900_000
"""The page stays below 2 MB: what the charts leave of this goes to problems and groups, half each at least."""
REST_BYTES = 120_000
"""Verdict, tables, style, script, notes and recipe at their largest."""


def render_page(run: RunData) -> str:
    """Return the whole page as HTML; the same run gives the same bytes."""
    templates, verdicts = _environment(), list(verdicts_of(run.evaluations).values())
    sections, not_drawn = chart_sections(run)
    room = PAGE_BYTES - REST_BYTES - sum(len(chart.svg.encode()) for section in sections for chart in section.charts)
    # Groups get what problems do not need, and the other way round.
    template = templates.get_template("group.html")
    group_items = [template.render(group=group) for group in run.groups]
    groups = shown_groups(run, group_items, room // 2)
    problems = shown_problems(run, templates.get_template("problem.html"), room - _size(groups))
    groups = shown_groups(run, group_items, room - _size(problems))
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return str(
        templates.get_template("page.html").render(
            run=run,
            style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
            script=script,
            # By this hash the page's content policy allows this script and no other.
            script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            facts=_facts(run),
            pending=_pending(run, verdicts),
            verdicts=[verdict_view(verdict, run) for verdict in verdicts],
            tables=before_after_tables(run),
            sections=sections,
            num_colours=NUM_COLOURS,
            not_drawn=not_drawn,
            outcomes=OUTCOMES,
            sets=SET_TITLES,
            problems=problems,
            groups=groups,
        )
    )


def _size(shown: Shown) -> int:
    return sum(len(text.encode()) + 4 for text in shown.html)


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def cleaned(value: object) -> object:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    # Autoescape and finalize are what make untrusted text safe: every value a template prints passes both, unless the
    # template marks it safe, which ours do only for the package's own script and style and for rendered SVG and items.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=cleaned, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        shorten=shorten, brief=brief, number=number, percent=percent, signed=signed, plain=_plain, direction=_direction,
        tone=lambda verdict: {"correct": "good", "wrong": "bad"}.get(verdict, "none"),
    )  # fmt: skip
    return environment


def _direction(advantage: float) -> str:
    """Return which way the update pushes; what would be shown as 0.00 pushes nowhere."""
    return "flat" if abs(advantage) < 0.005 else "up" if advantage > 0 else "down"


def _pending(run: RunData, verdicts: Sequence[SetVerdict]) -> str:
    """Return why there is no verdict yet, or "" if there is one."""
    if verdicts:
        return ""
    missing = "the evaluation before training" if "before" not in run.evaluations else "the evaluation after training"
    status = clean(str(run.info.get("status", "unknown")))
    if status == "finished":
        return f"No verdict: {missing} is not part of this run, so there is nothing to compare."
    planned = run.section("training").get("steps")
    reached = f"step {run.last_step:,}" + (f" of {planned:,}" if isinstance(planned, int) else "")
    return (
        f"No verdict yet: {missing} is not there. The run's status is \u201c{status}\u201d, at {reached}. "
        "Everything below is what it wrote so far; write the report again when it has ended."
    )


def _facts(run: RunData) -> list[tuple[str, str]]:
    """Return the few facts that stand under the title."""
    planned = run.section("training").get("steps")
    more = f" of {planned:,}" if isinstance(planned, int) and planned > run.last_step else ""
    seconds = sum(run.metrics.get("time/step", {}).values())
    facts = [
        ("status", str(run.info.get("status", ""))),
        ("model", str(run.section("model").get("path", ""))),
        ("steps", f"{run.last_step:,}{more}"),
        ("training time", duration(seconds) if seconds else ""),
        ("device", _plain(run.info.get("device"))),
        ("engine", _plain(run.info.get("engine"))),
        ("started", _moment(str(run.info.get("start_time", "")))),
    ]
    return [(name, value) for name, value in facts if value]


def _moment(text: str) -> str:
    """Return a time as it is in run.json to the minute."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return text


def _plain(value: object) -> str:
    """Return a JSON value in plain words: "a 1, b 2" for an object, "x, y" for a list, "" for null."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value)
    return "" if value is None else str(value)
