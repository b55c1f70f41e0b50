# DAPO: overlong filtering, clip-higher, token-level loss, soft overlong punishment; three rewards with weights.
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment

training_args = GRPOConfig(
    "dapo",
    mask_truncated_completions=True,
    loss_type="dapo",
    epsilon_high=0.28,
    epsilon=0.2,
    beta=0.0,
    per_device_train_batch_size=16,
    num_generations=8,
    max_completion_length=12,
    num_iterations=2,
    max_steps=4,
    logging_steps=1,
    generation_kwargs={"do_sample": True, "top_p": 0.95},
    reward_weights=[1.0, 0.5, 2.0],
)
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    args=training_args,
    train_dataset=load_dataset("trl-lib/maths", split="train"),
    reward_funcs=[
        get_soft_overlong_punishment(max_completion_len=12, soft_punish_cache=4),
        get_repetition_penalty_reward(ngram_size=2, max_penalty=-1.0),
        get_cosine_scaled_reward(max_len=12),
    ],
)
trainer.train()
