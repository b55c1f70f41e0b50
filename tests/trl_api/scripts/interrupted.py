# Checkpoints kept to two, a run that breaks off, resumed with True; the trainer is made anew each time.
from datasets import load_dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Break(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def unusual(completions, **kwargs):
    return [len(set(completion[0]["content"])) / 10 for completion in completions]


def make(*callbacks):
    return GRPOTrainer(
        "Qwen/Qwen2-0.5B-Instruct",
        unusual,
        GRPOConfig(
            "interrupted",
            max_steps=8,
            max_completion_length=8,
            num_generations=4,
            logging_steps=1,
            per_device_train_batch_size=4,
            save_steps=2,
            save_total_limit=2,
            lr_scheduler_type="polynomial",
            lr_scheduler_kwargs={"power": 2.0},
            warmup_steps=2,
        ),
        load_dataset("trl-lib/maths", split="train"),
        callbacks=list(callbacks),
    )


try:
    make(Break()).train()
except KeyboardInterrupt:
    print("broken off")
trainer = make()
trainer.train(resume_from_checkpoint=True)
trainer.save_model("final")
