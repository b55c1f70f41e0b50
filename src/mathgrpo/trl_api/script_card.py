"""The model card of a script's run. Its verdict is the script's to add: a trainer has measured rewards only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mathgrpo.publishing.card import hub_id
from mathgrpo.trl_api.grpo_config import GRPOConfig


def model_card(
    model: Any, name: str, dataset: str, tags: Sequence[str], rewards: Sequence[str], args: GRPOConfig
) -> str:
    """Return README.md with the metadata that the hub reads. Folders of this machine are not named in it."""
    from huggingface_hub import ModelCardData

    adapter = hasattr(model, "peft_config")
    base_name = str(getattr(model.config, "_name_or_path", ""))
    base = base_name if hub_id(base_name) else None
    data = dataset if hub_id(dataset) else None
    metadata = ModelCardData(
        base_model=base, datasets=[data] if data else None, library_name="peft" if adapter else "transformers",
        tags=list(dict.fromkeys(["grpo", "mathgrpo", *tags])), pipeline_tag="text-generation",
    )  # fmt: skip
    what = "An adapter" if adapter else "A model"
    trained = f"{what} trained with GRPO" + (f" from {base}" if base else "") + (f" on {data}" if data else "")
    settings = {
        "rewards": ", ".join(rewards), "loss": args.loss_type, "learning rate": f"{args.learning_rate:g}",
        "beta": f"{args.beta:g}", "completions of a prompt": args.num_generations,
        "completions of a step": args.per_device_train_batch_size * args.gradient_accumulation_steps,
        "tokens of a completion": f"at most {args.max_completion_length}", "temperature": f"{args.temperature:g}",
    }  # fmt: skip
    rows = [f"| {setting} | {value} |" for setting, value in settings.items()]
    kind = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
    imports = [f"from transformers import {kind}, AutoTokenizer"]
    if adapter:
        imports = [f"from peft import {kind}", "from transformers import AutoTokenizer"]
    target = args.hub_model_id or name
    return "\n".join(
        [
            "---", metadata.to_yaml(), "---", "", f"# {name}", "", f"{trained}.", "", "| setting | value |",
            "|---|---|", *rows, "", "```python", *imports, "", f'model = {kind}.from_pretrained("{target}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{target}")', "```", "",
        ]
    )  # fmt: skip
