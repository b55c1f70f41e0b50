"""The completions of a rollout, for the reader: printed, kept, sent to trackers (log_completions)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mathgrpo.files import write_atomically
from mathgrpo.text import printable
from mathgrpo.trl_api.callbacks import running_trackers
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.trl_api.reward_functions import RewardNotes
from mathgrpo.trl_api.script_task import as_given
from mathgrpo.types import RolloutGroup


def completion_rows(groups: Sequence[RolloutGroup], notes: RewardNotes, step: int) -> list[dict[str, Any]]:
    """Return one row a completion: step, prompt, completion, each reward, what functions noted, advantage."""
    prompts = [group.problem.columns["prompt"] for group in groups for _ in group.texts]
    texts = [text for group in groups for text in group.texts]
    columns = {"step": [step] * len(texts), "prompt": prompts, "completion": list(map(as_given, prompts, texts))}
    columns |= {name: [v for group in groups for v in group.reward_parts[name]] for name in groups[0].reward_parts}
    columns |= {name: column for name, column in notes.columns.items() if len(column) == len(texts)}
    columns |= {"advantage": [advantage for group in groups for advantage in group.advantages]}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def log_completions(groups: Sequence[RolloutGroup], notes: RewardNotes, step: int, args: GRPOConfig) -> None:
    """Write completions/completions_<step>.jsonl in output_dir, print some, and send a table to the trackers.

    Raises: UserError when the file cannot be written.
    """
    path = Path(args.output_dir) / "completions" / f"completions_{step:05d}.jsonl"
    rows = completion_rows(groups, notes, step)
    write_atomically(path, "".join(json.dumps(row, default=str) + "\n" for row in rows))
    if args.log_unique_prompts:
        firsts = {json.dumps(row["prompt"], sort_keys=True, default=str): row for row in reversed(rows)}
        rows = list(reversed(firsts.values()))
    _print(rows if args.num_completions_to_print is None else rows[: args.num_completions_to_print])
    for tracker in running_trackers(args):
        import pandas

        tracker.log({"completions": tracker.Table(dataframe=pandas.DataFrame(rows))})


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    shown = [name for name in rows[0] if name != "step"]
    table = Table(*shown, title=f"step {rows[0]['step']}", show_lines=True)
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in shown))  # Text: model output is no markup
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = "\n".join(str(message["content"]) for message in value)
    return printable(str(value))
