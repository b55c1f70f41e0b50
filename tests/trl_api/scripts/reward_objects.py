# Rewards that are objects: with state, with an async call, partial functions, numpy results; extra columns of any type.
import asyncio
import functools
import re

import numpy as np
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer


class Judge:
    def __init__(self):
        self.__name__ = "judge"
        self.calls = 0
        self.lock = asyncio.Lock()

    async def __call__(self, prompts, completions, **kwargs):
        async with self.lock:
            self.calls += 1
            await asyncio.sleep(0)
        return [float(len(completion[-1]["content"])) for completion in completions]


async def also_async(completions, difficulty, **kwargs):
    return [None if level == "hard" else 1.0 for level in difficulty]


def matches(completions, pattern, options, scale=1.0, **kwargs):
    texts = [completion[0]["content"] for completion in completions]
    found = [scale * bool(re.search(pattern, text)) + len(chosen) for text, chosen in zip(texts, options, strict=True)]
    return np.array(found, dtype=np.float32)


digits = functools.partial(matches, pattern=r"\d", scale=2.0)
judge = Judge()
dataset = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": f"{i}?"}],
            "difficulty": "hard" if i % 2 else "easy",
            "options": ["a"] * (i % 3),
            "numbers": {"target": i, "given": [1, 2, i]},
        }
        for i in range(8)
    ]
)
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=[judge, also_async, digits, lambda completions, numbers, **_: [n["target"] for n in numbers]],
    args=GRPOConfig(
        "objects",
        num_train_epochs=1,
        max_completion_length=8,
        num_generations=2,
        logging_steps=1,
        per_device_train_batch_size=8,
        multi_objective_aggregation="normalize_then_sum",
    ),
    train_dataset=dataset,
)
trainer.train()
assert judge.calls == 2
