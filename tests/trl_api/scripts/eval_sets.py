# Two evaluation sets, one before training, other numbers of completions, early stopping, the history as a table.
import pandas as pd
from datasets import load_dataset
from transformers import EarlyStoppingCallback
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import think_format_reward


def worse_and_worse(completions, trainer_state, **kwargs):
    return [-float(trainer_state.global_step)] * len(completions)


dataset = load_dataset("trl-lib/maths", split="train").train_test_split(test_size=0.5, seed=0)
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=[worse_and_worse, think_format_reward],
    args=GRPOConfig(
        output_dir="evals",
        max_steps=4,
        max_completion_length=8,
        num_generations=4,
        num_generations_eval=2,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        logging_steps=1,
        metric_for_best_model="eval_hard_reward",
        greater_is_better=True,
        remove_unused_columns=False,
    ),
    train_dataset=dataset["train"],
    eval_dataset={"easy": dataset["test"].select(range(2)), "hard": dataset["test"].select(range(2, 4))},
    callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
)
trainer.train()
history = pd.DataFrame(trainer.state.log_history)
rewards = history[["step", "reward", "reward_std", "rewards/think_format_reward/mean", "loss"]].dropna()
evaluated = history[["step", "eval_easy_reward", "eval_hard_rewards/worse_and_worse/mean"]].dropna(thresh=2)
print(rewards, evaluated, trainer.state.best_metric)
