"""The page of a results file: what the targets are and whether they were met, and all that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.carried import ROOT
from benchmarks.gpu.driver import short
from benchmarks.gpu.plan import STAGES
from benchmarks.gpu.record import Line, at_size, newest, read_lines
from benchmarks.gpu.targets import target_rows
from mathgrpo.text import with_inside

RESULTS = Path("benchmarks/results/gpu/results.jsonl")
DOCS = Path("docs/performance.md")
BEGIN, END = "<!-- gpu targets: made by python -m benchmarks.gpu.page -->", "<!-- end of gpu targets -->"
BAD = ("failed", "wrong", "out of memory", "timed out", "died")


def write_page(results: Path, page: Path) -> list[str]:
    """Write the page of a results file; return the cases that went wrong in its last run, as "stage/case"."""
    lines = read_lines(results)
    page.write_text(page_text(lines), encoding="utf-8")
    last = [line for line in lines if lines and line["run"] == lines[-1]["run"]]
    return [f"{stage}/{case}" for (stage, case), line in newest(last).items() if line["status"] in BAD]


def page_text(lines: Sequence[Line]) -> str:
    """Return the page in Markdown."""
    lines = of_last_card(lines)
    cases = newest(lines)
    parts = [
        "# What the GPU kit measured", "", _origin(lines), "", "## Targets", "", *_target_table(lines), "",
        *_mishaps(cases),
    ]  # fmt: skip
    for stage in STAGES:
        found = {case: line for (name, case), line in cases.items() if name == stage.name}
        if found or not stage.hidden:
            parts += _stage_section(stage.title, found, _ending(lines, stage.name))
    return "\n".join(parts).rstrip() + "\n"


def with_targets(text: str, lines: Sequence[Line]) -> str:
    """Return a page of the docs with the targets' table between its marks made anew from a results file's lines.

    Raises: ValueError when the page has not exactly one pair of marks.
    """
    lines = of_last_card(lines)
    where = _origin(lines) if lines else "No GPU has been at hand: nothing here has run on one."
    return with_inside(text, BEGIN, END, "\n".join([where, "", *_target_table(lines)]))


def of_last_card(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of all runs on the card of the last one: numbers of two cards, or a rehearsal's, never mix."""
    cards = {line["run"]: line["card"] for line in lines if "card" in line}
    return [line for line in lines if cards.get(line["run"]) == cards.get(lines[-1]["run"])]


def _target_table(lines: Sequence[Line]) -> list[str]:
    card = next((str(line["card"]) for line in lines if "card" in line), "")
    rows = target_rows(newest(lines), card)
    return ["| | target | measured | |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _origin(lines: Sequence[Line]) -> str:
    runs = [line for line in lines if "revision" in line]
    measured = newest(lines).get(("facts", "card and versions"))
    facts: dict[str, Any] = measured["numbers"] if measured else {}
    said = [
        *[f"Card: {run['card']}" + (f", driver {facts['driver']}" if facts.get("driver") else "") + "."
          for run in runs[-1:]],
        "Versions: " + ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()) + "."
        if facts.get("versions") else "",
        *(f"Run of {run['run']}: revision {run['revision']}"
          + (f", only {', '.join(run['only'])}" if run["only"] else "")
          + (", **its numbers say nothing about speed**" if run["card"].startswith("none") else "") + "."
          for run in runs),
        "A case that was run again shows its last run." if len(runs) > 1 else "",
    ]  # fmt: skip
    return "\n".join(filter(None, said))


def _mishaps(cases: Mapping[tuple[str, str], Line]) -> list[str]:
    bad = [(stage, line) for (stage, _), line in cases.items() if line["status"] in BAD]
    if not bad:
        return []
    rows = [
        f"- `{stage}`, {line['case']}: {line['status']}{at_size(line)}: {_cell(line['error'])}" for stage, line in bad
    ]
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
    parts = [line["error"] + at_size(line)] if line["error"] else []
    for name, value in line["numbers"].items():
        if isinstance(value, dict):
            value = "; ".join(f"{key} {short(number)}" for key, number in value.items())
        elif isinstance(value, list):
            value = ", ".join(short(number) for number in value)
        parts.append(f"{name} {short(value)}")
    return "; ".join(parts)


def _cell(text: str) -> str:
    """Return text that cannot break a table: what libraries say in their errors is not under our control."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Bring the docs' table of targets up to date with the stored results."""
    page = ROOT / DOCS
    page.write_text(with_targets(page.read_text(encoding="utf-8"), read_lines(ROOT / RESULTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
