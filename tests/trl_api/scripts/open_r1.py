# A training script with everything round it: seeds, logging, the last checkpoint, metrics, a card, an evaluation.
import logging
from pathlib import Path

import datasets
import transformers
from transformers import AutoTokenizer, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import accuracy_reward, think_format_reward

logger = logging.getLogger(__name__)


def main(training_args):
    set_seed(training_args.seed)
    log_level = training_args.get_process_log_level()
    logger.setLevel(log_level)
    transformers.utils.logging.set_verbosity(log_level)
    logger.warning(
        f"Process rank: {training_args.local_rank}, device: {training_args.device}, n_gpu: {training_args.n_gpu}, "
        f"distributed training: {bool(training_args.local_rank != -1)}, 16-bits training: {training_args.fp16}"
    )
    last_checkpoint = None
    if Path(training_args.output_dir).is_dir():
        last_checkpoint = get_last_checkpoint(training_args.output_dir)
    dataset = datasets.load_dataset("openai/gsm8k", name="main")
    tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2-0.5B-Instruct")

    def make_conversation(example):
        return {"prompt": [{"role": "user", "content": example["question"]}], "solution": example["answer"]}

    dataset = dataset.map(make_conversation)
    for split in dataset:
        if "answer" in dataset[split].column_names:
            dataset[split] = dataset[split].remove_columns("answer")
    trainer = GRPOTrainer(
        model="Qwen/Qwen2-0.5B-Instruct",
        reward_funcs=[accuracy_reward, think_format_reward],
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["test"].select(range(4)) if training_args.eval_strategy != "no" else None,
        processing_class=tokenizer,
    )
    checkpoint = training_args.resume_from_checkpoint or last_checkpoint
    train_result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = train_result.metrics
    metrics["train_samples"] = len(dataset["train"])
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    trainer.model.generation_config.eos_token_id = tokenizer.eos_token_id
    trainer.save_model(training_args.output_dir)
    if trainer.accelerator.is_main_process:
        trainer.create_model_card(dataset_name="openai/gsm8k", tags=["open-r1"])
        trainer.model.config.use_cache = True
        trainer.model.config.save_pretrained(training_args.output_dir)
    metrics = trainer.evaluate()
    metrics["eval_samples"] = 4
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    return trainer


def config(max_steps):
    return GRPOConfig(
        output_dir="open-r1",
        bf16=False,
        do_eval=True,
        eval_strategy="steps",
        eval_steps=2,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        model_init_kwargs={"attn_implementation": "flash_attention_2", "torch_dtype": "bfloat16", "use_cache": False},
        learning_rate=2e-5,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        log_level="info",
        logging_first_step=True,
        logging_steps=2,
        logging_strategy="steps",
        max_prompt_length=64,
        max_completion_length=8,
        max_steps=max_steps,
        num_generations=4,
        overwrite_output_dir=True,
        per_device_train_batch_size=4,
        report_to=["tensorboard"] if False else [],
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        seed=42,
        warmup_ratio=0.1,
    )


main(config(2))
trainer = main(config(4))
