"""Which files and functions of the package one training step runs through: `python tests/docs/step_trace.py`.

Traces the second step of the demo recipe, made small (the first also chooses and tries what the rest then uses), with
both engines, and prints JSON: files -> their lines, functions, and how deep the calls go.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mathgrpo
from mathgrpo.config import load_recipe
from mathgrpo.training import train
from mathgrpo.training.loop import take_step

PACKAGE = Path(mathgrpo.__file__).parent
SMALL = (
    "training.steps=2", "problems.train_size=64", "problems.heldout_size=4", "evaluation.samples=0",
    "rollout.prompts_per_step=8", "rollout.max_new_tokens=64", "model.dtype=float32",
)  # fmt: skip


class StepTrace:
    """A profile function that notes what runs inside the second call of `take_step`."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.depth = self._calls = 0
        self._inside = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note a call of the package's own code."""
        if frame.f_code is take_step.__code__ and event in ("call", "return"):
            self._calls += event == "call"
            self._inside = event == "call" and self._calls == 2
        if self._inside and event == "call" and _is_ours(frame.f_code):
            self.codes.add(frame.f_code)
            self.depth = max(self.depth, _depth(frame))

    def result(self) -> dict[str, Any]:
        """Return what was noted."""
        files = sorted({Path(code.co_filename) for code in self.codes})
        lines = {str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in files}
        return {"files": lines, "functions": len(self.codes), "depth": self.depth}


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(str(PACKAGE)) and code.co_name != "<module>"


def _depth(frame: FrameType | None) -> int:
    count = 0
    while frame is not None:
        count += _is_ours(frame.f_code)
        if frame.f_code is take_step.__code__:
            return count
        frame = frame.f_back
    return count


def traced(engine: str) -> dict[str, Any]:
    """Return what a step with an engine runs through."""
    trace = StepTrace()
    with tempfile.TemporaryDirectory() as folder:
        settings = (*SMALL, f"run.engine={engine}", f"run.output_dir={folder}", "run.name=traced")
        recipe = load_recipe("demo", settings)
        sys.setprofile(trace)
        train(recipe, recipe_name="demo")
        sys.setprofile(None)
    return trace.result()


if __name__ == "__main__":
    print(json.dumps({engine: traced(engine) for engine in ("fast", "plain")}))
