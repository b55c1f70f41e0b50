# A callback that shows what the model says while it trains, and one that stops the run and asks for a checkpoint.
import torch
from datasets import load_dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

said = []


class Show(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        text = processing_class.apply_chat_template(
            [{"role": "user", "content": "2+2?"}], tokenize=False, add_generation_prompt=True
        )
        inputs = processing_class(text, return_tensors="pt").to(model.device)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said.append(processing_class.decode(output[0][inputs.input_ids.shape[1] :]))


class Stop(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs.get("loss") is not None and state.global_step == 2:
            control.should_training_stop = True
            control.should_save = True


def noisy(completions, **kwargs):
    return torch.rand(len(completions))


trainer = GRPOTrainer(
    "Qwen/Qwen2-0.5B-Instruct",
    noisy,
    GRPOConfig(
        "samples",
        num_train_epochs=1,
        max_completion_length=8,
        num_generations=4,
        logging_steps=1,
        per_device_train_batch_size=4,
        save_strategy="no",
        log_completions=True,
        num_completions_to_print=2,
    ),
    load_dataset("trl-lib/maths", split="train"),
    callbacks=[Show, Stop()],
)
trainer.add_callback(Show())
trainer.train()
assert len(said) == 4
