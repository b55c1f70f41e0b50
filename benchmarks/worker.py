"""`python -m benchmarks.worker KIND SETTINGS FOLDER OPTIONS`: one contestant in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.channel import Control
from benchmarks.settings import Settings

Run = Callable[[Control, Settings, Path, dict[str, Any]], None]


def main() -> None:
    """Serve the orchestrator until it says stop. A failure is one line to it, the traceback goes to stderr."""
    control = Control()
    kind, settings, folder, options = sys.argv[1:5]
    try:
        _contestant(kind)(control, Settings.model_validate_json(settings), Path(folder), json.loads(options))
    except Exception as error:
        traceback.print_exc()
        lines = str(error).splitlines()
        control.reply(error=f"{type(error).__name__}: {lines[0] if lines else ''}")
        sys.exit(1)


def _contestant(kind: str) -> Run:
    if kind == "fake":
        from benchmarks import fake

        return fake.run
    _quiet()
    if kind == "ours":
        from benchmarks import ours

        return ours.run
    from benchmarks import trl_peer

    return trl_peer.run


def _quiet() -> None:
    """Offline, and silent about what is not asked here."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRACKIO="0")
    warnings.filterwarnings("ignore")
    from mathgrpo.cli.options import quiet_libraries

    quiet_libraries()


if __name__ == "__main__":
    main()
