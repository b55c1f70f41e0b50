"""Loading a policy: weights, tokenizer, precision, adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.hardware.cuda_care import leave_cudnn_attention_out
from mathgrpo.hub import offline_if_unreachable
from mathgrpo.models.adapter_proof import require_inside
from mathgrpo.models.locate import adapter_base, locate_model
from mathgrpo.models.lora import attach_adapter, load_adapter
from mathgrpo.models.policy import UNBOUNDED_CONTEXT, Policy
from mathgrpo.models.quantized import is_quantized, prepare_quantized, quantization_config
from mathgrpo.models.settled_rope import steady_length, stretched_length


def load_policy(section: ModelSection, device: str, *, train: bool) -> Policy:
    """Return the policy a recipe names, on its device, in eval mode.

    Weights that train are float32 masters whatever the compute precision: bfloat16 masters round small updates
    away. Without training they are kept in the compute precision. With section.quantization the layers' matrices are
    4-bit, and what is left of the model is float32. Only safetensors are read, and code that comes with a model runs
    only when section.trust_remote_code names that model.

    Raises: UserError when there is no such model, it is no decoder-only language model, its files are damaged, or 4-bit
    weights would have to train.
    """
    device = resolve_device(device)
    dtype = compute_dtype(section.dtype, device)
    trusted = _is_trusted(section)
    location = locate_model(section.path)
    base = adapter_base(location)
    quantization = quantization_config(section, dtype)
    _require_adapter(train and quantization is not None, section)
    with _one_line_errors(section.path), offline_if_unreachable(not Path(base or location).is_dir()):
        kept = torch.float32 if train or quantization is not None else dtype
        options = {} if quantization is None else {"quantization_config": quantization, "device_map": {"": device}}
        model = _load_weights(base or location, section.path, kept, trusted, options)
        quantized = is_quantized(model)
        _require_adapter(train and quantized, section)
        if quantized:
            prepare_quantized(model, dtype)
        if base is not None:
            model = load_adapter(model, location, train=train, section=section.lora)
        tokenizer = _load_tokenizer(location, base, trusted)
    if base is None and section.lora is not None and train:
        model = attach_adapter(model, section.lora)
    _check_vocabulary(model, tokenizer, section.path)
    model = (model if quantized else model.to(device)).eval()
    if not train:
        model.requires_grad_(False)
    return policy_from(model, tokenizer, device=device, dtype=dtype, name=_name(section.path))


def policy_from(model: Any, tokenizer: Any, *, device: str, dtype: torch.dtype, name: str) -> Policy:
    """Return a policy around a model that is already loaded.

    Raises: UserError for an adapter that does not live in the model's layers.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if device.startswith("cuda"):
        leave_cudnn_attention_out()
    _make_savable(model)
    policy = Policy(
        model=model,
        tokenizer=tokenizer,
        eos_ids=end_token_ids(model, tokenizer),
        device=device,
        compute_dtype=dtype,
        max_context=context_length(model.config),
        name=name,
        steady_context=steady_length(model) or UNBOUNDED_CONTEXT,
    )
    require_inside(policy)
    return policy


_SAMPLING_FLAGS = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def _make_savable(model: Any) -> None:
    """Take out of a model's generation defaults what they pass over themselves: transformers would not save it.

    Published ones say do_sample=false and a temperature: they mean greedy, and would lose a run when it saves.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        defaults = type(config)()
        for name in _SAMPLING_FLAGS if not config.do_sample else ():
            if hasattr(config, name):
                setattr(config, name, getattr(defaults, name))


def context_length(config: Any) -> int:
    """Return how many tokens the config allows in one sequence, prompt and completion together."""
    return stretched_length(config.get_text_config()) or UNBOUNDED_CONTEXT


def _is_trusted(section: ModelSection) -> bool:
    """Return whether the model's own code may run: only when it is asked for by the model's name."""
    if section.trust_remote_code not in ("", section.path):
        raise UserError(
            f"model.trust_remote_code={section.trust_remote_code}: is not the model that is loaded; "
            f"allowed: nothing, or {section.path} once you have read its code"
        )
    return section.trust_remote_code != ""


def _require_adapter(quantized_trains: bool, section: ModelSection) -> None:
    if quantized_trains and section.lora is None:
        raise UserError(
            f"model.path={section.path}: its weights are 4-bit, which cannot train; give the adapter that does, as in "
            "--set model.lora.r=16"
        )


def _load_weights(location: str, path: str, dtype: torch.dtype, trusted: bool, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(location, trust_remote_code=trusted)
    if "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
        _check_decoder_only(config, path)
    with _no_progress_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trusted,
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"model.path={path}: {len(missing)} weights are missing from its files, {missing[0]} for one; "
            "download or save the model again"
        )
    return model


def _check_decoder_only(config: Any, path: str) -> None:
    """Raise UserError unless the config describes a causal language model without an encoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    names = list(config.architectures or [])
    causal = not names or any("CausalLM" in n or "LMHead" in n or "ConditionalGeneration" in n for n in names)
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not causal:
        what = names[0] if names else config.model_type
        raise UserError(
            f"model.path={path}: {what} is not a decoder-only language model; give one (Qwen, Llama, GPT-2, …)"
        )


def _load_tokenizer(location: str, base: str | None, trusted: bool) -> Any:
    from transformers import AutoTokenizer

    source = location if base is None or (Path(location) / "tokenizer_config.json").is_file() else base
    return AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)


def _check_vocabulary(model: Any, tokenizer: Any, path: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"model.path={path}: the tokenizer has {len(tokenizer)} tokens but the model only {rows}; "
            "give a folder where both belong together"
        )
    if not tokenizer("1 + 1 = 2", add_special_tokens=False)["input_ids"]:  # transformers makes up an empty one
        raise UserError(
            f"model.path={path}: its tokenizer reads no text: a file of it is missing, such as tokenizer.json; "
            "download or save the model again"
        )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep the libraries' bars out of the command line's own display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _one_line_errors(path: str) -> Iterator[None]:
    """Turn what the libraries raise on absent or damaged files into one line for the user."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(
            f"model.path={path}: a safetensors file is damaged ({first_line(error)}); download or save it again"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.path={path}: brings Python code of its own, which is not run; "
                f"read it, then allow it with --set model.trust_remote_code={path}"
            ) from error
        raise UserError(
            f"model.path={path}: cannot be loaded ({first_line(error)}); "
            'give a folder written by save_pretrained with safetensors, a run folder, a hub id or "starter"'
        ) from error


def _name(path: str) -> str:
    folder = Path(path).expanduser()
    return folder.resolve().name if folder.is_dir() else path


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda" (or "cuda:N") for a recipe's device.

    Raises: UserError when CUDA is asked for and there is none.

    Example:
        >>> resolve_device("cpu")
        'cpu'
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f'run.device={device}: PyTorch sees no CUDA device; use "auto" or "cpu"')
    return device


def compute_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the precision of matrix products: bfloat16 on CUDA and float32 on CPU for "auto"."""
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


_SENTINEL = "mathgrpo-turn"


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return every id that ends a completion, ascending and without repeats.

    Models disagree on where they say it: the generation config (one id or several), the tokenizer, and the
    chat template, whose end-of-turn token may be neither. Missing one makes completions run on to the limit.
    """
    ids: set[int] = set()
    generation_config = getattr(model, "generation_config", None)
    for owner in (generation_config, model.config, tokenizer):
        ids.update(_as_ids(getattr(owner, "eos_token_id", None)))
    ids.update(_end_of_turn_ids(tokenizer))
    return tuple(sorted(ids))


def _as_ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]


def _end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Return the special token the chat template writes right after an assistant turn, if it writes one."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return []
    text = ""
    for words in (lambda text: text, lambda text: [{"type": "text", "text": text}]):  # some templates take parts alone
        turns = [{"role": "user", "content": words("question")}, {"role": "assistant", "content": words(_SENTINEL)}]
        with suppress(TemplateError, TypeError, ValueError):
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        if _SENTINEL in text:
            break
    else:
        return []
    tail = text.rsplit(_SENTINEL, 1)[1].strip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    return [int(ids[0])] if ids and ids[0] in special else []
