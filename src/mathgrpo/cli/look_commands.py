"""mathgrpo env: what is there, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from mathgrpo.cli.options import Overrides
from mathgrpo.text import number, wrapped

MEMORY = "main {main_gb} GB, {main_free_gb} GB of it free, disk {disk_here_free_gb} GB free here, " \
         "{disk_cache_free_gb} GB free for the cache"  # fmt: skip


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
    system, versions = report["system"], report["versions"]
    lines = _fact_lines({
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "not installed": ", ".join(name for name, version in versions.items() if not version) or "nothing",
        "system": f"{system['platform']}, {system['cores']} cores",
        "processor": system["processor"],
        "device": _device(report["device"]),
        "memory": MEMORY.format(**report["memory"]),
        "settings": ", ".join(f"{name}={value}" for name, value in report["settings"].items()) or "none",
        "cache": report["cache"],
    })  # fmt: skip
    for title in ("engines", "adapters", "extras"):
        lines += ["", f"{title}:", *_verdicts(report[title])]
    if "recipe" in report:
        lines += ["", *_fact_lines(_recipe(report["recipe"]))]
    return lines


def _fact_lines(facts: Mapping[str, str]) -> list[str]:
    return [line for name, fact in facts.items() for line in wrapped(f"{name:<15}", fact, 100)]


def _device(device: Mapping[str, Any]) -> str:
    if "devices" not in device:
        return f"cpu, {device['threads']} threads; {device['no_cuda']}"
    each = ", ".join(f"{d['name']} ({d['memory_gb']} GB, compute {d['capability']})" for d in device["devices"])
    return f"cuda {device['cuda']}, {each}, {device['threads']} CPU threads"


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    width = max(len(verdict["name"]) for verdict in verdicts) + 2
    return [f"  {'yes' if v['works'] else 'no ':<5}{v['name']:<{width}}{v['why']}" for v in verdicts]


def _recipe(recipe: Mapping[str, Any]) -> dict[str, str]:
    share = 100 * recipe["trainable"] / max(recipe["total"], 1)
    return {
        "model": f"{recipe['model']}, {recipe['architecture']}",
        "parameters": f"{recipe['total']:,} in all, {recipe['trainable']:,} train ({number(share, 2)} %), "
        f"{recipe['quantized']:,} in 4 bits",
        "served by": recipe["served"],
    }
