# An adapter of rank 1 on all linear layers; one generation is shared by two optimizer steps.
from datasets import load_dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import reasoning_accuracy_reward

dataset = load_dataset("trl-lib/maths", split="train")
training_args = GRPOConfig(
    learning_rate=5e-5,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=4,
    num_train_epochs=1,
    num_generations=8,
    generation_batch_size=8,
    max_completion_length=8,
    report_to=[],
    logging_steps=2,
)
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=reasoning_accuracy_reward,
    args=training_args,
    train_dataset=dataset,
    peft_config=LoraConfig(r=1, lora_alpha=32, target_modules="all-linear"),
)
trainer.train()
