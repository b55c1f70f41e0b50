# Every kind of reward function: by length, by a data-set column, for one task only, async, watching the run, logging.
import asyncio
import re

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer


def reward_len(completion_ids, **kwargs):
    return [float(len(ids)) / 10 for ids in completion_ids]


def format_reward(completions, **kwargs):
    found = [re.match(r"^<think>.*?</think>", completion[0]["content"], re.DOTALL) for completion in completions]
    return [1.0 if match else 0.0 for match in found]


def correct(completions, ground_truth, log_extra=None, log_metric=None, **kwargs):
    answers = [completion[0]["content"].strip() for completion in completions]
    rewards = [1.0 if answer == truth else 0.0 for answer, truth in zip(answers, ground_truth, strict=True)]
    if log_extra:
        log_extra("answer", answers)
    if log_metric:
        log_metric("accuracy", sum(rewards) / len(rewards))
    return rewards


def math_only(prompts, completions, task, **kwargs):
    return [0.5 if each == "math" else None for each in task]


def coding_only(prompts, completions, task, **kwargs):
    return [0.25 if each == "coding" else None for each in task]


async def judged(prompts, completions, **kwargs):
    await asyncio.sleep(0)
    return [float("e" in completion[0]["content"]) for completion in completions]


def warmer(completions, trainer_state, **kwargs):
    return [trainer_state.global_step / 10] * len(completions)


rows = [
    {
        "prompt": [{"role": "user", "content": f"What is {i} + 1?"}],
        "ground_truth": str(i + 1),
        "task": "math" if i % 2 else "coding",
    }
    for i in range(8)
]
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=[reward_len, format_reward, correct, math_only, coding_only, judged, warmer],
    args=GRPOConfig(
        output_dir="rewards",
        reward_weights=[1.0, 1.0, 2.0, 1.0, 1.0, 0.5, 0.0],
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=12,
        num_train_epochs=1,
        logging_steps=1,
        log_completions=True,
    ),
    train_dataset=Dataset.from_list(rows),
)
trainer.train()
