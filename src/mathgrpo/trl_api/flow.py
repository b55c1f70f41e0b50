"""When a run logs, evaluates and saves, where one turn of the loop takes several optimizer steps."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import DefaultFlowCallback


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
