# One reward function from the library, every setting at its default but the run's length.
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import accuracy_reward

dataset = load_dataset("trl-lib/maths", split="train")

trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=accuracy_reward,
    args=GRPOConfig(max_steps=2, max_completion_length=16, logging_steps=1),
    train_dataset=dataset,
)
trainer.train()
