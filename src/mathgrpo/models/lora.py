"""LoRA adapters: attached fresh, or loaded from a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import nn

from mathgrpo.config.recipe import LoraSection
from mathgrpo.errors import UserError, named
from mathgrpo.models.known_modules import why_not_plain
from mathgrpo.models.module_weights import effective_weight, plain_module


def attach_adapter(model: Any, section: LoraSection) -> Any:
    """Return a PEFT model in which only a fresh adapter trains; its output starts equal to the model's.

    Raises: UserError when a target module is not one of the model's linear layers.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(model, section.target_modules)
    config = LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        bias="none",
        target_modules=list(section.target_modules),
        task_type="CAUSAL_LM",
        fan_in_fan_out=_has_transposed_linears(model),
    )
    return get_peft_model(model, config)


def load_adapter(model: Any, folder: str, *, train: bool, section: LoraSection | None) -> Any:
    """Return the model with the adapter of a checkpoint folder.

    Training without model.lora trains all weights, so the adapter is merged into them; training with it goes on
    with the adapter as it was saved.
    Raises: UserError when model.lora asks for another shape than the saved one.
    """
    from peft import PeftModel

    loaded: Any = PeftModel.from_pretrained(model, folder, is_trainable=train)
    saved = loaded.peft_config[loaded.active_adapter]
    if train and section is None:
        return merged(loaded).requires_grad_(True)
    if section is not None and (section.r, section.alpha) != (saved.r, saved.lora_alpha):
        raise UserError(
            f"model.lora.r={section.r}, alpha={section.alpha}: the adapter in {folder} has r={saved.r}, "
            f"alpha={saved.lora_alpha}; use these, or start from the base model"
        )
    return loaded


def merged(model: Any, *, safe: bool = False) -> Any:
    """Return the plain transformers model with a PEFT model's adapters added to its weights.

    Embedding and head that were one matrix become two where an adapter makes them differ, and the config says so.
    safe: raise ValueError when a sum is not finite.
    """
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if all(end is not None and not why_not_plain(end) for end in ends):
        plain = [plain_module(end) for end in ends]
        if plain[0].weight is plain[1].weight and effective_weight(ends[0]) is not effective_weight(ends[1]):
            plain[1].weight = nn.Parameter(plain[1].weight.detach().clone())
            base.config.tie_word_embeddings = False
    return model.merge_and_unload(safe_merge=safe)


def unlearnt_layers(model: Any) -> tuple[list[str], int]:
    """Return the adapted layers whose second matrix B is still all zeros, and how many adapted layers there are.

    A fresh adapter has B = 0, so that it changes nothing; after a step that reached it, B is not 0 any more.
    """
    second = [(name, parameter) for name, parameter in model.named_parameters() if ".lora_B." in name]
    zero = [name.partition(".lora_B.")[0] for name, parameter in second if not bool(parameter.any())]
    return [name.removeprefix("base_model.model.") for name in zero], len(second)


def learning_failure(model: Any) -> str:
    """Return in one line that a trained model's adapter did not learn, "" when it did or there is none."""
    zero, total = unlearnt_layers(model)
    if not zero:
        return ""
    who = "did not learn" if len(zero) == total else f"did not learn in {len(zero)} of {total} layers"
    return (
        f"the adapter {who}: its B matrices are still zero ({zero[0]} for one), so there the model is the one it "
        "started from; no gradient reached them: look at frac_reward_zero_std, then at "
        + named("optimizer.learning_rate")
    )


def check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Raise UserError, naming the linear layers there are, unless every target is one of them."""
    present = linear_names(model)
    missing = [name for name in targets if name not in present]
    if missing:
        raise UserError(
            f"model.lora.target_modules={','.join(missing)}: this model has no such linear layer; "
            f"it has {', '.join(sorted(present))}"
        )


def linear_names(model: Any) -> set[str]:
    """Return the last name parts of the linear layers an adapter can go on (the output head left out)."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def _has_transposed_linears(model: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())
