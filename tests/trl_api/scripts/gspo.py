# GSPO: one ratio for each completion, a narrow clip, a generation divided between four optimizer steps.
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

training_args = GRPOConfig(
    importance_sampling_level="sequence",
    loss_type="grpo",
    beta=0.0,
    epsilon=3e-4,
    epsilon_high=4e-4,
    gradient_accumulation_steps=1,
    steps_per_generation=4,
    per_device_train_batch_size=4,
    num_generations=4,
    max_completion_length=8,
    num_train_epochs=1,
    learning_rate=1e-3,
    logging_steps=4,
)


def spread(completion_ids, **kwargs):
    return [float(sum(ids) % 5) for ids in completion_ids]


trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=spread,
    args=training_args,
    train_dataset=load_dataset("trl-lib/maths", split="train"),
)
trainer.train()
