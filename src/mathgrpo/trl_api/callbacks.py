"""The callbacks every run has: flow, progress, trackers."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback, ProgressCallback

from mathgrpo.errors import UserError
from mathgrpo.trl_api.checks import TRACKERS
from mathgrpo.trl_api.grpo_config import GRPOConfig


def default_callbacks(args: GRPOConfig) -> list[Any]:
    """Return transformers' own flow, progress and tracker callbacks for these settings.

    Raises: UserError when a tracker is asked for that is not installed.
    """
    return [FlowCallback(), PrinterCallback() if args.disable_tqdm else ProgressCallback(), *_trackers(args)]


def _trackers(args: GRPOConfig) -> list[Any]:
    asked = list(args.report_to or ())
    if "all" in asked:
        asked = [name for name in TRACKERS if find_spec(name)]
    for name in asked:
        if find_spec(name) is None:
            raise UserError(f"report_to={name!r}: the package is not installed; pip install {name}")
    if not asked:
        return []
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    if "wandb" in asked and not os.environ.get("WANDB_API_KEY") and not os.environ.get("WANDB_MODE"):
        os.environ["WANDB_MODE"] = "offline"  # a run never stops to ask for a login; `wandb sync` uploads it later
    return [_joined(kind()) for kind in get_reporting_integration_callbacks(asked)]


def _joined(callback: Any) -> Any:
    """Let a trackio callback log into the run that the script has begun itself, if it has."""
    trackio = sys.modules.get("trackio")
    if type(callback).__name__ == "TrackioCallback" and trackio is not None:
        callback._initialized = trackio.context_vars.current_run.get() is not None
    return callback


def running_trackers(args: GRPOConfig) -> list[Any]:
    """Return the modules trackio and wandb, where the run reports there and a run of theirs is open."""
    trackio, wandb = (
        sys.modules.get(name) if {name, "all"} & set(args.report_to or ()) else None for name in ("trackio", "wandb")
    )
    found = [trackio] if trackio is not None and trackio.context_vars.current_run.get() is not None else []
    return found + ([wandb] if wandb is not None and wandb.run is not None else [])


class FlowCallback(DefaultFlowCallback):
    """transformers' flow, asked for every optimizer step of a turn: what falls on one of them is done after the last.

    Asked for the last one only, save_steps=25 with two steps a turn would save at step 50 first.
    """

    def __init__(self) -> None:
        self._step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Begin where the run begins, which may be a checkpoint."""
        self._step = state.global_step
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> Any:
        """Ask for every optimizer step since the last call."""
        last = state.global_step
        for step in range(min(self._step + 1, last), last + 1):
            state.global_step = step
            control = super().on_step_end(args, state, control, **options)
        state.global_step = self._step = last
        return control
