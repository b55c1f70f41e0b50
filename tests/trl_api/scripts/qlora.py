# A 4-bit model by name, an adapter, a paged 8-bit optimizer; then the adapter is saved, loaded, merged and used.
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import reasoning_accuracy_reward, think_format_reward

model_id, output_dir = "Qwen/Qwen2-0.5B-Instruct", "Qwen2-GRPO"
train_dataset = load_dataset("trl-lib/maths", split="train[:50%]")
training_args = GRPOConfig(
    model_init_kwargs={"attn_implementation": "sdpa", "dtype": "float32"},
    learning_rate=2e-5,
    max_steps=2,
    per_device_train_batch_size=4,
    max_completion_length=8,
    num_generations=4,
    optim="paged_adamw_8bit",
    use_liger_kernel=True,
    output_dir=output_dir,
    logging_steps=1,
    log_completions=False,
)
trainer = GRPOTrainer(
    model=model_id,
    reward_funcs=[think_format_reward, reasoning_accuracy_reward],
    args=training_args,
    train_dataset=train_dataset,
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
    ),
    peft_config=LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"]),
)
trainer_stats = trainer.train()
print(f"{round(trainer_stats.metrics['train_runtime'] / 60, 2)} minutes used for training.")
trainer.save_model(output_dir)

base_model = AutoModelForCausalLM.from_pretrained(model_id, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(model_id)
fine_tuned_model = PeftModel.from_pretrained(base_model, output_dir)
text = tokenizer.apply_chat_template(train_dataset[0]["prompt"], add_generation_prompt=True, tokenize=False)
model_inputs = tokenizer([text], return_tensors="pt")
generated_ids = fine_tuned_model.generate(**model_inputs, max_new_tokens=4)
print(tokenizer.decode(generated_ids[0][len(model_inputs.input_ids[0]) :], skip_special_tokens=True))
model_merged = fine_tuned_model.merge_and_unload()
model_merged.save_pretrained(f"{output_dir}-merged")
tokenizer.save_pretrained(f"{output_dir}-merged")
