"""What scripts write down about a run: metrics and state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mathgrpo.trl_api.grpo_config import GRPOConfig


class Reporting:
    """Methods of a trainer under the names that transformers' Trainer gives them."""

    args: GRPOConfig
    state: Any

    is_fsdp_enabled = False
    is_deepspeed_enabled = False

    def log_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Print metrics, one a line, under the name of their split ("train", "eval")."""
        from transformers.trainer_pt_utils import metrics_format

        shown = metrics_format(dict(metrics))
        width = max((len(name) for name in shown), default=0)
        print(f"***** {split} metrics *****")
        for name in sorted(shown):
            print(f"  {name:<{width}} = {shown[name]}")

    def save_metrics(self, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
        """Write <split>_results.json into args.output_dir, and with `combined` add to all_results.json."""
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / f"{split}_results.json", metrics)
        if combined:
            path = folder / "all_results.json"
            earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            _write_json(path, earlier | metrics)

    def save_state(self) -> None:
        """Write trainer_state.json (steps, log_history) into args.output_dir."""
        Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
        self.state.save_to_json(str(Path(self.args.output_dir) / "trainer_state.json"))

    def is_world_process_zero(self) -> bool:
        """Return whether this is the main process."""
        return self.args.process_index == 0

    def is_local_process_zero(self) -> bool:
        """Return whether this is the main process of its machine."""
        return self.args.local_process_index == 0


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=4, sort_keys=True, default=float) + "\n", encoding="utf-8")
