# GSM8K with an adapter, an evaluation set, a callback, a checkpoint, resuming, saving and loading again.
from datasets import load_dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import accuracy_reward, get_soft_overlong_punishment, think_format_reward

SYSTEM = "Think inside <think></think>, then put the answer into \\boxed{}."


def conversation(example):
    return {
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": example["question"]}],
        "solution": example["answer"].split("####")[1].strip(),
    }


class Watch(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        print("WATCHED", state.global_step, sorted(logs)[:3])


def main(resume=False):
    dataset = load_dataset("openai/gsm8k", name="main")
    train = dataset["train"].map(conversation, remove_columns=dataset["train"].column_names)
    test = dataset["test"].map(conversation).select(range(4))
    args = GRPOConfig(
        output_dir="gsm8k-lora",
        learning_rate=1e-5,
        remove_unused_columns=False,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=4,
        num_generations=8,
        max_completion_length=16,
        max_prompt_length=64,
        num_train_epochs=1,
        max_steps=4,
        bf16=False,
        report_to=["tensorboard"] if False else [],
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        use_vllm=False,
        gradient_checkpointing=True,
        loss_type="dr_grpo",
        scale_rewards=False,
        mask_truncated_completions=True,
    )
    trainer = GRPOTrainer(
        model="Qwen/Qwen2-0.5B-Instruct",
        args=args,
        reward_funcs=[think_format_reward, accuracy_reward, get_soft_overlong_punishment(16, 4)],
        train_dataset=train,
        eval_dataset=test,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["q_proj"]),
        callbacks=[Watch()],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


main()
trainer = main(resume="gsm8k-lora/checkpoint-2")
trainer.accelerator.print("done")
trainer.save_model(trainer.args.output_dir)
AutoPeftModelForCausalLM.from_pretrained(trainer.args.output_dir)
