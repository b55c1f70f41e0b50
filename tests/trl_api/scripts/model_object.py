# A model in bfloat16 and a tokenizer that pads on the left, plain text prompts; saved by hand and loaded again.
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from trl import GRPOConfig, GRPOTrainer

name = "Qwen/Qwen2-0.5B-Instruct"
model = AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.bfloat16, device_map=None)
model.config.use_cache = False
tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
tokenizer.pad_token = tokenizer.eos_token


def reward_func(completions, ground_truth, **kwargs):
    pairs = zip(completions, ground_truth, strict=True)
    return [1.0 if truth in completion else 0.1 * len(completion) for completion, truth in pairs]


dataset = Dataset.from_dict(
    {"prompt": [f"{i} + 1 =" for i in range(8)], "ground_truth": [str(i + 1) for i in range(8)]}
)
trainer = GRPOTrainer(
    model=model,
    processing_class=tokenizer,
    reward_funcs=[reward_func],
    args=GRPOConfig(
        "plain",
        bf16=True,
        max_steps=2,
        max_completion_length=8,
        num_generations=4,
        logging_steps=1,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
    ),
    train_dataset=dataset,
)
before = model.lm_head.weight.detach().clone()
trainer.train()
assert trainer.model is model and not torch.equal(before, model.lm_head.weight)
trainer.model.save_pretrained("by-hand")
tokenizer.save_pretrained("by-hand")
generator = pipeline("text-generation", model="by-hand", tokenizer=tokenizer)
print(generator("1 + 1 =", max_new_tokens=3)[0]["generated_text"])
