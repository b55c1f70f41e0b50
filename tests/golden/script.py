"""The golden run of GRPOTrainer: a script as a user of TRL writes one, on problems made here.

Called by record.py: `python script.py FOLDER` trains, and leaves in FOLDER the logs, what the reward functions were
given, and the weights.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

SYSTEM = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
STEPS = 20
CALLS: list[list[dict[str, Any]]] = []
"""What the first reward function was given, call by call."""


def make_dataset(size: int) -> list[dict[str, Any]]:
    """Return word problems of two kinds, the same on every machine."""
    random, rows = Random(5), []
    for i in range(size):
        a, b, c = (random.randint(2, 20) for _ in range(3))
        if i % 2:
            question = f"The team hid {a + b + c} toys. Tom found {a} toys and Ann found {b} toys. How many are left?"
            answer = c
        else:
            question = (
                f"There are {a} boys and {b} girls playing tennis, and {c} girls playing football. How many in all?"
            )
            answer = a + b + c
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        rows.append({"prompt": turns, "answer": str(answer)})
    return rows


def right(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Return 1 for the right answer in its tags, and note what was drawn."""
    texts = [turns[0]["content"] for turns in completions]
    found = [re.search(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL) for text in texts]
    rewards = [float(match is not None and match[1] == gold) for match, gold in zip(found, answer, strict=True)]
    rows = zip(prompts, texts, columns["completion_ids"], rewards, strict=True)
    CALLS.append([{"prompt": p[-1]["content"], "text": t, "ids": list(i), "reward": r} for p, t, i, r in rows])
    return rewards


def worked(completions: list[Any], **columns: Any) -> list[float]:
    """Return up to 1 for equations written down."""
    return [min(turns[0]["content"].count("="), 2) / 2 for turns in completions]


def main(folder: Path) -> None:
    """Train, and write what is compared."""
    from mathgrpo import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=8, gradient_accumulation_steps=2,
        num_generations=8, max_completion_length=48, max_steps=STEPS, learning_rate=1e-4, warmup_steps=2, beta=0.01,
        reward_weights=[1.0, 0.25], logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, seed=0,
        bf16=False, use_cpu=True,
    )  # fmt: skip
    trainer = GRPOTrainer("starter", reward_funcs=[right, worked], args=args, train_dataset=make_dataset(200))
    trainer.train()
    trainer.save_model(str(folder / "model"))
    (folder / "logs.json").write_text(json.dumps(trainer.state.log_history), encoding="utf-8")
    (folder / "calls.json").write_text(json.dumps(CALLS), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
