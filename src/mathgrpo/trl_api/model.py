"""From what a user hands over (a name, a model, a PEFT or 4-bit model) to a policy that can train."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.hub import offline_if_unreachable
from mathgrpo.models import Policy, load_policy, policy_from, resolve_device
from mathgrpo.models.load_policy import compute_dtype
from mathgrpo.models.locate import locate_model
from mathgrpo.models.lora import unlearnt_layers
from mathgrpo.models.quantized import is_quantized, prepare_quantized
from mathgrpo.optim.optimizer import trainable_parameters
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.update import Reference, build_reference


def make_policy(
    model: Any, args: GRPOConfig, processing_class: Any, peft_config: Any, quantization_config: Any
) -> Policy:
    """Return the policy to train, on its device.

    Weights that train become float32 masters in place, whatever precision the model came in; 16-bit weights would
    round small updates away. Products are computed in the precision of args.bf16.

    Raises: UserError when the model cannot be loaded, has nothing to train, or is spread over several devices.
    """
    device = resolve_device("cpu" if args.use_cpu else "auto")
    precision = {None: "auto", True: "bfloat16", False: "float32"}[args.bf16]
    dtype = compute_dtype(precision, device)
    tokenizer = _check_tokenizer(processing_class)
    if isinstance(model, str | os.PathLike):
        name = str(model)
        model, tokenizer = _load(name, args, device, precision, quantization_config, tokenizer)
    else:
        name = str(getattr(model.config, "_name_or_path", "")) or type(model).__name__
        tokenizer = tokenizer or _tokenizer_of(name)
    _set_padding(model, tokenizer)
    if peft_config is not None:
        model = _with_adapter(model, peft_config)
    quantized = is_quantized(model)
    if quantized:
        prepare_quantized(model, dtype)
    _make_masters(model, dtype, quantized)
    _require_trainable(model, quantized)
    device = _place(model, device, quantized)
    return policy_from(model.eval(), tokenizer, device=device, dtype=dtype, name=name)


def make_reference(policy: Policy, beta: float) -> Reference | None:
    """Return the policy as it is now, frozen; None for beta 0.

    A PEFT model whose adapter changes nothing yet is its own reference with the adapter off; one that comes with a
    trained adapter is copied with it, as TRL does.
    """
    if beta > 0.0 and hasattr(policy.model, "peft_config") and not _adapter_is_fresh(policy.model):
        return Reference(copy.deepcopy(policy.model).requires_grad_(False).eval(), adapter_off=False)
    return build_reference(policy, beta)


def _load(
    name: str, args: GRPOConfig, device: str, precision: Any, quantization_config: Any, tokenizer: Any
) -> tuple[Any, Any]:
    """Return model and tokenizer of a name: a folder, a hub id, or "starter". A tokenizer that is given is kept."""
    given: Any = args.model_init_kwargs or {}
    options = {option: value for option, value in given.items() if value is not None}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if "flash" in str(options.get("attn_implementation", "")):
        options.pop("attn_implementation")  # a way to compute the same; the update has kernels of its own
    for option in ("dtype", "torch_dtype", "device_map", "trust_remote_code"):
        if options.get("quantization_config") is None or option == "trust_remote_code":
            options.pop(option, None)  # decided by bf16, use_cpu and the trust_remote_code field
    trusted = name if args.trust_remote_code else ""
    location = locate_model(name)
    if not options and (tokenizer is None or not _is_bare(location)):
        policy = load_policy(ModelSection(path=name, dtype=precision, trust_remote_code=trusted), device, train=True)
        return policy.model, tokenizer or policy.tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with offline_if_unreachable(location == name):
            model = AutoModelForCausalLM.from_pretrained(location, trust_remote_code=bool(trusted), **options)
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(
                location, trust_remote_code=bool(trusted), revision=options.get("revision", "main")
            )
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UserError(
            f"model={name}: cannot be loaded with model_init_kwargs={options} ({first_line(error)})"
        ) from error
    return model, tokenizer


def _is_bare(location: str) -> bool:
    """Return whether this is a folder with a model and no tokenizer."""
    folder = Path(location)
    return folder.is_dir() and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*"))


def _check_tokenizer(processing_class: Any) -> Any:
    if processing_class is None:
        return None
    if hasattr(processing_class, "tokenizer") or not hasattr(processing_class, "decode"):
        raise UserError(
            f"processing_class: {type(processing_class).__name__} is no tokenizer; only text models are served, "
            "pass AutoTokenizer.from_pretrained(...)"
        )
    return processing_class


def _tokenizer_of(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        with offline_if_unreachable(True):
            return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"processing_class: no tokenizer found beside the model ({name}); pass it") from error


def _set_padding(model: Any, tokenizer: Any) -> None:
    """Let model and tokenizer agree on padding, as TRL does: the end token where there is none."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _with_adapter(model: Any, peft_config: Any) -> Any:
    from peft import PeftConfig, PeftModel, get_peft_model

    if not isinstance(peft_config, PeftConfig):
        raise UserError(f"peft_config: {type(peft_config).__name__} is no peft.PeftConfig; pass a peft.LoraConfig")
    if peft_config.is_prompt_learning:
        raise UserError(
            f"peft_config: {type(peft_config).__name__} puts virtual tokens before the prompt, which rollout "
            "and update here do not know; use a peft.LoraConfig"
        )
    if isinstance(model, PeftModel):
        raise UserError("peft_config: the model has an adapter already; pass the model without, or no peft_config")
    try:
        return get_peft_model(model, peft_config)
    except ValueError as error:
        raise UserError(f"peft_config: {first_line(error)}") from error


def _make_masters(model: Any, dtype: torch.dtype, quantized: bool) -> None:
    """Make weights that train float32; in float32 runs the frozen ones too, so that no layer falls back to 16 bits."""
    for parameter in model.parameters():
        low = parameter.is_floating_point() and parameter.dtype != torch.float32
        if low and (parameter.requires_grad or dtype == torch.float32):
            parameter.data = parameter.data.float()
    if not quantized:
        for module in (model, getattr(model, "base_model", model)):
            if hasattr(module, "config") and dtype == torch.float32:
                module.config.dtype = torch.float32


def _require_trainable(model: Any, quantized: bool) -> None:
    if next(trainable_parameters(model), None) is None or (quantized and not hasattr(model, "peft_config")):
        what = "is quantised" if quantized else "has no parameter with requires_grad"
        raise UserError(f"model: {what} and has no adapter, so nothing trains; pass peft_config=LoraConfig(...)")


def _place(model: Any, device: str, quantized: bool) -> str:
    """Return the device the model is on; models that are not quantised are moved to the one of the run."""
    places = {str(parameter.device) for parameter in model.parameters()}
    if len(places) > 1:
        raise UserError(
            f"model: is spread over {', '.join(sorted(places))}; load it on one device, without device_map or with "
            'device_map={"": 0}'
        )
    if quantized:
        place = places.pop()
        if place.split(":")[0] != device.split(":")[0]:
            raise UserError(f"model: is quantised on {place}, the run is on {device}; load it there, or set use_cpu")
        return place
    model.to(device)
    return device


def _adapter_is_fresh(model: Any) -> bool:
    """Return whether the adapter's output is still zero: its second matrices are."""
    zero, total = unlearnt_layers(model)
    return 0 < total == len(zero)
