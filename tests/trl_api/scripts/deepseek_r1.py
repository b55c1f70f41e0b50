# DeepSeek-R1's published settings in small: a wide clip, several generations for one optimizer step.
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import accuracy_reward, think_format_reward

training_args = GRPOConfig(
    loss_type="grpo",
    beta=0.001,
    epsilon=10.0,
    num_generations=4,
    max_completion_length=8,
    steps_per_generation=1,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=4,
    num_train_epochs=1,
    logging_steps=1,
)
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    args=training_args,
    train_dataset=load_dataset("trl-lib/maths", split="train"),
    reward_funcs=[accuracy_reward, think_format_reward],
)
trainer.train()
