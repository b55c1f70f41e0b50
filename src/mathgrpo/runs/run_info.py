"""run.json: what ran, with what, when, and how it ended."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mathgrpo.evaluation import GainParts, SetVerdict
from mathgrpo.hardware.processor import versions_of
from mathgrpo.models import Policy
from mathgrpo.text import signed

PACKAGES = ("mathgrpo", "torch", "transformers", "tokenizers", "peft")


def start_info(
    policy: Policy, folder: Path, recipe_name: str, command: Sequence[str], started: datetime, notes: Sequence[str]
) -> dict[str, Any]:
    """Return run.json as it is when a run of any kind begins."""
    return {
        "name": folder.name,
        "recipe": recipe_name,
        "command": shlex.join(command),
        "versions": versions(),
        "device": device_name(policy.device),
        "model": policy.name,
        "start_time": started.isoformat(timespec="seconds"),
        "end_time": None,
        "status": "running",
        "notes": list(notes),
    }


def finished_info(info: Mapping[str, Any], status: str, step: int) -> dict[str, Any]:
    """Return run.json with how and when the run ended."""
    ended = datetime.now().astimezone().isoformat(timespec="seconds")
    return dict(info) | {"status": status, "end_time": ended, "steps_done": step}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages whose numbers decide a run's results."""
    return versions_of(PACKAGES)


def device_name(device: str) -> str:
    """Return the device with its model name where it is known."""
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def verdict_text(verdicts: Mapping[str, SetVerdict]) -> list[str]:
    """Return the verdicts for a reader: each with the causes of its gain on a line below."""
    return [line for verdict in verdicts.values() for line in (verdict.line, gain_line(verdict.parts))]


def gain_line(parts: GainParts) -> str:
    """Return where a gain comes from, in points.

    Example:
        >>> gain_line(GainParts(format=1.0, working=15.25, arithmetic=-0.5))
        '  of which format +1.0, choosing to work +15.2, better arithmetic −0.5 points'
    """
    named = {"format": parts.format, "choosing to work": parts.working, "better arithmetic": parts.arithmetic}
    shown = ", ".join(f"{name} {signed(value, 1)}" for name, value in named.items())
    return f"  of which {shown} points"
