"""A script for one or several processes, started by test_processes.py: `python processes_worker.py FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers import TrainerCallback

from trl_api.trainer_cases import ROWS, length_reward, trainer

RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def noting(completions: list[Any], answer: list[str], log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
    """A reward that notes a column and a metric."""
    log_extra("gold", answer)
    log_metric("share", 0.25)
    return length_reward(completions)


class StopInTheSecond(TrainerCallback):
    """Stops after step 4, but only in the last process."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= args.process_index == args.world_size - 1 and state.global_step >= 4


def main(folder: Path) -> None:
    """Train, evaluate and save; then train on from the checkpoint in the middle."""
    options: dict[str, Any] = {
        "per_device_train_batch_size": 8 // SIZE, "gradient_accumulation_steps": 1, "steps_per_generation": 2,
        "reward_funcs": noting, "eval_dataset": ROWS[:3], "log_completions": True, "save_strategy": "steps",
        "save_steps": 2, "beta": 0.1,
    }  # fmt: skip
    run = trainer(folder, max_steps=8, callbacks=[StopInTheSecond()], **options)
    assert run.accelerator.num_processes == SIZE and run.is_world_process_zero() == (RANK == 0)
    run.train()
    evaluated = run.evaluate()
    run.save_model(str(folder / "model"))
    again = trainer(folder, max_steps=4, **options)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    again.save_model(str(folder / "again"))
    outcome = {"logs": run.state.log_history, "evaluated": evaluated, "steps": run.state.global_step}
    (folder / f"outcome-{RANK}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
