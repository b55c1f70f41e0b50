# A model that has its adapter already, a KL term, and the adapter trained further in a second trainer.
from datasets import load_dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

name = "Qwen/Qwen2-0.5B-Instruct"


def length_reward(completions, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


def train(model, folder):
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=length_reward,
        args=GRPOConfig(
            folder,
            max_steps=2,
            max_completion_length=8,
            num_generations=4,
            per_device_train_batch_size=4,
            logging_steps=1,
            learning_rate=1e-2,
            beta=0.04,
        ),
        train_dataset=load_dataset("trl-lib/maths", split="train"),
        processing_class=AutoTokenizer.from_pretrained(name),
    )
    trainer.train()
    trainer.save_model(folder)
    return trainer


model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(name),
    LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM", target_modules=["q_proj"]),
)
model.print_trainable_parameters()
train(model, "first")
again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(name), "first", is_trainable=True)
trainer = train(again, "second")
merged = AutoPeftModelForCausalLM.from_pretrained("second").merge_and_unload()
merged.save_pretrained("merged")
