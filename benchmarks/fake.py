"""A contestant that does no work: it tests the orchestrator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.channel import Control
from benchmarks.settings import Settings


def run(control: Control, settings: Settings, folder: Path, options: dict[str, Any]) -> None:
    """Sleep options["seconds"] a step; fail at step options["fails_at"], fall silent at options["hangs_at"]."""
    seconds = float(options.get("seconds", 0.0))
    control.reply(ready=True, imported_bytes=1, prepare_s=0.0, note="does no work")
    while (command := control.next()) is not None:
        if command["do"] != "step":
            raise ValueError(f"unknown command {command['do']}")
        index = command["step"]
        if index == options.get("fails_at"):
            raise ValueError("told to fail\nsecond line")
        if index == options.get("hangs_at"):
            time.sleep(3600)
        started = time.perf_counter()
        time.sleep(seconds)
        spent = time.perf_counter() - started
        control.reply(
            step=index, seconds=spent, rollout_s=spent / 2, reward_s=0.0, tokens=settings.completions,
            longest=1, prompt_tokens=settings.prompts_per_step, peak_bytes=1, resident_bytes=1, logprob_difference=None,
        )  # fmt: skip
