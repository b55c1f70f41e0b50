"""mathgrpo env and check-data: what is there, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from mathgrpo.cli.options import Overrides


def env_command(
    recipe: Annotated[str, typer.Argument(help="A recipe, by path or bare name: its model is counted.")] = "",
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show versions, device, memory, and which engines and adapters would work here: for a bug report.

    \b
    Examples:
      mathgrpo env
      mathgrpo env qwen2.5-0.5b-xml --set model.path=MODEL_FOLDER --json
    """
    from mathgrpo.cli.environment import environment, of_recipe
    from mathgrpo.errors import UserError

    if overrides and not recipe:
        raise UserError("--set: there is no recipe to change; name one, such as demo")
    found = {"recipe": of_recipe(recipe, overrides or [])} if recipe else {}
    report = environment() | found
    print(json.dumps(report, indent=1, ensure_ascii=False) if as_json else "\n".join(report_lines(report)))


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report for a reader, as it can be pasted into an issue."""
    installed = [f"{name} {version}" for name, version in report["versions"].items() if version]
    absent = [name for name, version in report["versions"].items() if not version]
    lines = [
        *_field("versions", ", ".join(installed)),
        *_field("not installed", ", ".join(absent) or "nothing"),
        *_field("system", f"{report['system']['platform']}, {report['system']['cores']} cores"),
        *_field("processor", report["system"]["processor"]),
        *_field("device", _device(report["device"])),
        *_field("memory", _memory(report["memory"])),
        *_field("settings", ", ".join(f"{name}={value}" for name, value in report["settings"].items()) or "none"),
        *_field("cache", report["cache"]),
    ]
    for title in ("engines", "adapters", "extras"):
        lines += ["", f"{title}:", *_verdicts(report[title])]
    if "recipe" in report:
        lines += ["", *_recipe(report["recipe"])]
    return lines


def _field(name: str, value: str) -> list[str]:
    """Return a name and its value, in lines of at most 100 columns, broken at commas."""
    rows = [""]
    for part in value.split(", "):
        joined = f"{rows[-1]}, {part}" if rows[-1] else part
        if rows[-1] and len(joined) > 84:
            rows[-1] += ","
            rows.append(part)
        else:
            rows[-1] = joined
    return [f"{name if i == 0 else '':<15}{row}" for i, row in enumerate(rows)]


def _device(device: Mapping[str, Any]) -> str:
    if "devices" not in device:
        return f"cpu, {device['threads']} threads; {device['no_cuda']}"
    each = ", ".join(f"{d['name']} ({d['memory_gb']} GB, compute {d['capability']})" for d in device["devices"])
    return f"cuda {device['cuda']}, {each}, {device['threads']} CPU threads"


def _memory(memory: Mapping[str, float]) -> str:
    words = {
        "main_gb": "main {} GB", "main_free_gb": "{} GB of it free", "disk_here_free_gb": "disk {} GB free here",
        "disk_cache_free_gb": "{} GB free for the cache",
    }  # fmt: skip
    return ", ".join(text.format(memory[name]) for name, text in words.items() if name in memory)


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    width = max(len(verdict["name"]) for verdict in verdicts) + 2
    return [f"  {'yes' if v['works'] else 'no ':<5}{v['name']:<{width}}{v['why']}" for v in verdicts]


def _recipe(recipe: Mapping[str, Any]) -> list[str]:
    share = 100 * recipe["trainable"] / max(recipe["total"], 1)
    return [
        *_field("model", f"{recipe['model']}, {recipe['architecture']}"),
        *_field("parameters", f"{recipe['total']:,} in all, {recipe['trainable']:,} train ({share:.2g} %), "
                              f"{recipe['quantized']:,} in 4 bits"),
        *_field("served by", recipe["served"]),
    ]  # fmt: skip


SHOWN_FAILURES = 20


def check_data_command(
    path: Annotated[str, typer.Argument(help="A JSONL, CSV or Parquet file, a folder of such files, or a hub id.")],
    question_column: Annotated[str, typer.Option(help="Column with the question.")] = "question",
    answer_column: Annotated[str, typer.Option(help="Column with the gold answer.")] = "answer",
    fmt: Annotated[str, typer.Option("--format", help="Response format: xml, working_out, think or boxed.")] = "xml",
    split: Annotated[str, typer.Option(help="Only this split, or file stem in a folder; default: all.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help=f"List every failure, not the first {SHOWN_FAILURES} of a split.")
    ] = False,
) -> None:
    """Replay every gold answer through the grader and the response format, and say which fail.

    Exit code 0 if all pass, 1 if a row fails, 2 if the data cannot be read.

    \b
    Example:
      mathgrpo check-data data/gsm8k --split test
    """
    from mathgrpo.answers.gold_check import check_rows
    from mathgrpo.config import Recipe
    from mathgrpo.config.load_recipe import validated
    from mathgrpo.formats import get_format
    from mathgrpo.problems.origin import all_rows, read_split

    columns = {"question": question_column, "answer": answer_column}
    chosen = {"splits": ("train", split)} if split else {}
    section = validated(Recipe, {"problems": {"source": path, "columns": columns, **chosen}}).problems
    splits = {split: read_split(section, split)} if split else all_rows(section)
    failures = []
    for name, rows in splits.items():
        found = check_rows(rows, section, get_format(fmt))
        failures += found
        for failure in found if every else found[:SHOWN_FAILURES]:
            print(f"{name}: {failure}")
        if len(found) > SHOWN_FAILURES and not every:
            print(f"{name}: and {len(found) - SHOWN_FAILURES} more; list them with --all")
    checked = sum(map(len, splits.values()))
    print(f"{checked} rows: {checked - len(failures)} pass, {len(failures)} fail")
    raise typer.Exit(1 if failures else 0)
