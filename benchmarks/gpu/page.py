"""The page of a results file: what the targets are and whether they were met, and all that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.driver import short
from benchmarks.gpu.plan import STAGES
from benchmarks.gpu.record import Line, newest, read_lines
from benchmarks.gpu.targets import target_rows

BAD = ("failed", "wrong", "out of memory", "timed out", "died")


def write_page(results: Path, page: Path) -> list[str]:
    """Write the page of a results file; return the cases that went wrong in its last run, as "stage/case"."""
    lines = read_lines(results)
    page.write_text(page_text(lines), encoding="utf-8")
    last = [line for line in lines if lines and line["run"] == lines[-1]["run"]]
    return [f"{stage}/{case}" for (stage, case), line in newest(last).items() if line["status"] in BAD]


def page_text(lines: Sequence[Line]) -> str:
    """Return the page in Markdown."""
    cases = newest(lines)
    facts: dict[str, Any] = next(
        (line["numbers"] for (_, case), line in cases.items() if case == "card and versions"), {}
    )
    parts = [
        "# What the GPU kit measured", "", _origin(lines, facts), "",
        "## Targets", "", "| | target | measured | |", "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in target_rows(cases, str(facts.get("card", "")))), "",
        *_mishaps(cases),
    ]  # fmt: skip
    for stage in STAGES:
        found = {case: line for (name, case), line in cases.items() if name == stage.name}
        if found or not stage.hidden:
            parts += _stage_section(stage.title, found, _ending(lines, stage.name))
    return "\n".join(parts).rstrip() + "\n"


def _origin(lines: Sequence[Line], facts: Mapping[str, Any]) -> str:
    runs = [line for line in lines if "revision" in line]
    card = facts.get("card") or "no card: the facts were not measured"
    said = [
        f"Card: {card}" + (f", driver {facts['driver']}" if facts.get("driver") else "") + ".",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()) + "."
        if facts.get("versions") else "",
        *(f"Run of {run['run']}: revision {run['revision']}"
          + (f", only {', '.join(run['only'])}" if run["only"] else "")
          + (", **a rehearsal: its numbers say nothing about speed**" if run["rehearsal"] else "") + "."
          for run in runs),
        "A case that was run again shows its last run." if len(runs) > 1 else "",
    ]  # fmt: skip
    return "\n".join(filter(None, said))


def _mishaps(cases: Mapping[tuple[str, str], Line]) -> list[str]:
    bad = [(stage, line) for (stage, _), line in cases.items() if line["status"] in BAD]
    if not bad:
        return []
    rows = [f"- `{stage}`, {line['case']}: {line['status']}{_at(line)}: {_cell(line['error'])}" for stage, line in bad]
    return ["## To mend", "", *rows, ""]


def _stage_section(title: str, cases: Mapping[str, Line], ending: str) -> list[str]:
    if not cases:
        return [f"## {title}", "", ending or "Not yet measured.", ""]
    rows = [
        f"| {_cell(case)} | {line['status']} | {line['seconds']:.1f} | {line['peak_bytes'] / 1e9:.2f} | "
        f"{_cell(_numbers(line))} |"
        for case, line in cases.items()
    ]
    head = ["| case | | seconds | device peak, GB | |", "|---|---|---|---|---|"]
    return [f"## {title}", "", *head, *rows, "", *([ending, ""] if ending else [])]


def _ending(lines: Sequence[Line], stage: str) -> str:
    """Return what became of a stage, where that is more than its cases say."""
    ends = [line for line in lines if line.get("stage") == stage and not line.get("case")]
    if not ends or ends[-1]["status"] == "done":
        return ""
    last = ends[-1]
    return (
        f"The stage: {last['status']} after {last['seconds']:.0f} s"
        + (f", {last['error']}" if last["error"] else "")
        + "."
    )


def _numbers(line: Line) -> str:
    parts = [line["error"] + _at(line)] if line["error"] else []
    for name, value in line["numbers"].items():
        if isinstance(value, dict):
            value = "; ".join(f"{key} {short(number)}" for key, number in value.items())
        elif isinstance(value, list):
            value = ", ".join(short(number) for number in value)
        parts.append(f"{name} {short(value)}")
    return "; ".join(parts)


def _at(line: Line) -> str:
    return f" at {line['size']}" if line["status"] == "out of memory" and line["size"] else ""


def _cell(text: str) -> str:
    """Return text that cannot break a table: what libraries say in their errors is not under our control."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
