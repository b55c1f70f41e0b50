# A reward model by name, one as an object with its tokenizer, and a function; their weights.
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

judge = AutoModelForSequenceClassification.from_pretrained("org/judge", num_labels=1)


def short(completions, **kwargs):
    return [-len(completion[0]["content"]) for completion in completions]


trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=["org/judge", judge, short],
    reward_processing_classes=[None, AutoTokenizer.from_pretrained("org/judge"), None],
    args=GRPOConfig(
        "judged",
        max_steps=2,
        max_completion_length=8,
        num_generations=4,
        per_device_train_batch_size=8,
        logging_steps=1,
        reward_weights=[1.0, 1.0, 0.01],
        scale_rewards="batch",
    ),
    train_dataset=load_dataset("trl-lib/maths", split="train"),
)
trainer.train()
