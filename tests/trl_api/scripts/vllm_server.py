# Completions from a vLLM server on another node, named on the command line.
import argparse

from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer


def length_reward(completion_ids, **kwargs):
    return [float(sum(ids) % 7) for ids in completion_ids]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm_server_host", type=str, default="", help="The server IP")
    parser.add_argument("--vllm_server_port", type=int, default=8000)
    args = parser.parse_args()
    training_args = GRPOConfig(
        per_device_train_batch_size=4,
        num_generations=4,
        bf16=False,
        use_vllm=True,
        vllm_mode="server",
        vllm_server_host=args.vllm_server_host.replace("ip-", "").replace("-", "."),
        vllm_server_port=args.vllm_server_port,
        max_steps=2,
        max_completion_length=8,
        logging_steps=1,
    )
    trainer = GRPOTrainer(
        model="Qwen/Qwen2-0.5B-Instruct",
        args=training_args,
        reward_funcs=length_reward,
        train_dataset=load_dataset("trl-lib/maths", split="train"),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    trainer = main()
