"""The policy's weights as vLLM takes them: adapters merged, in the compute precision, under their checkpoint names."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized
from transformers import AutoModelForCausalLM

from mathgrpo.distributed.exchange import weights_checksum
from mathgrpo.errors import UserError, named
from mathgrpo.models import Policy
from mathgrpo.models.adapter_layers import is_wrapper
from mathgrpo.models.known_modules import why_not_plain
from mathgrpo.models.module_weights import effective_weight, plain_module
from mathgrpo.models.moved_weights import moved
from mathgrpo.models.policy import is_linear4bit
from mathgrpo.rollout.sampling import rounding_noise
from mathgrpo.rollout.trial import plain_logits
from mathgrpo.rollout.vllm.served.mathgrpo_vllm_worker import weights_digest
from mathgrpo.text import gigabytes, number


def served_weights(policy: Policy) -> dict[str, Tensor]:
    """Return every weight by its name in a checkpoint, on the CPU, floats in the compute precision.

    Adapters are merged into copies, in the precision of their masters, never into the model. A tensor that two names
    share is given once.
    Raises: UserError for an adapter or a quantisation that cannot be written as plain weights.
    """
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    inside: tuple[str, ...] = ()
    with torch.no_grad():
        for name, module in policy.causal_lm.named_modules():
            if inside and name.startswith(inside):
                continue
            _require_plain(name, module)
            if is_wrapper(module) or is_linear4bit(module):
                inside += (f"{name}.",)
                weights[f"{name}.weight"] = effective_weight(module)
                bias = getattr(plain_module(module), "bias", None)
                if bias is not None:
                    weights[f"{name}.bias"] = bias
                continue
            for part, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    weights[f"{name}.{part}" if name else part] = parameter
        computed = {name: w.to(policy.compute_dtype) if w.is_floating_point() else w for name, w in weights.items()}
        return {name: computed[name].detach().cpu().contiguous() for name in sorted(computed)}


def _require_plain(name: str, module: Any) -> None:
    """Raise UserError unless a module computes with weights that can be written down, and nothing hangs on it."""
    weight = getattr(plain_module(module), "weight", None)
    packed = isinstance(weight, Tensor) and not (weight.is_floating_point() or is_linear4bit(plain_module(module)))
    unknown = is_wrapper(module) and plain_module(module) is module
    obstacle = "keeps its weight packed" if packed else "" if unknown else why_not_plain(module)
    if unknown or is_parametrized(module):
        obstacle = f"is a {type(module).__name__}"
    if obstacle:
        raise UserError(
            f"{named('rollout.vllm')}: {name or 'the model'} {obstacle}, so it cannot be written as plain weights, "
            f"which vLLM needs; use plain LoRA, or {named('rollout.vllm', 'none')}"
        )


def plain_config(policy: Policy) -> Any:
    """Return a copy of the model's config that says nothing of quantisation, since the weights are written out.

    Where an adapter makes embedding and head two matrices, it does not say that they are one.
    """
    config = copy.deepcopy(policy.causal_lm.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    ends = [policy.causal_lm.get_input_embeddings(), policy.causal_lm.get_output_embeddings()]
    if all(end is not None for end in ends) and effective_weight(ends[0]) is not effective_weight(ends[1]):
        config.tie_word_embeddings = False
    return config


def write_weights(weights: dict[str, Tensor], path: Path) -> str:
    """Write the weights as one safetensors file and return their digest, taken from memory and not from the file.

    Raises: UserError when the folder is full or cannot be written.
    """
    digest = weights_digest(sorted(weights.items()))
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except Exception as error:  # safetensors raises its own class for a full disk
        size = sum(weight.numel() * weight.element_size() for weight in weights.values())
        raise UserError(
            f"rollout.vllm.exchange={path.parent}: {gigabytes(size)} of weights cannot be written there ({error}); "
            "name a folder with more room"
        ) from error
    return digest


def fingerprint(policy: Policy) -> tuple[int, ...]:
    """Return numbers that change when a weight does: a checksum of all bits, and which adapters are on.

    It reads every weight once, on its device, and is taken before every rollout: whoever changed the weights, and by
    whatever kernel, cannot be overlooked.
    """
    layers = [module for module in policy.model.modules() if is_wrapper(module)]
    on = [(layer.disable_adapters, *layer.active_adapters) for layer in layers]
    return weights_checksum(policy.model.parameters()), zlib.crc32(repr(on).encode())


_TRIAL_TOKENS = 48
_TRIAL_SHARE = 1.0
"""How far the trial moves every matrix, in units of its own spread: far enough that one matrix left behind shows.

In bfloat16, on the starter's 37 matrices, that changes log-probabilities by 0.27 nats at least, and rounding by 0.07;
at a tenth of the spread, 34 of them would pass for rounding.
"""
_ROUNDINGS = 3.0
"""How many times the measured effect of rounding the trial allows."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean and largest |log-probability of vLLM - of the policy| over a prompt's tokens, in nats."""

    mean: float
    largest: float


def tolerance(dtype: torch.dtype) -> float:
    """Return the mean difference that rounding in this precision explains, in nats a token."""
    return rounding_noise(dtype)


def difference(theirs: Sequence[float], ours: Sequence[float]) -> Difference:
    """Return how far two lists of log-probabilities are apart.

    Example:
        >>> difference([-1.0, -2.0], [-1.0, -2.5])
        Difference(mean=0.25, largest=0.5)
    """
    gaps = [abs(a - b) for a, b in zip(theirs, ours, strict=True)]
    return Difference(sum(gaps) / len(gaps), max(gaps))


def plain_logprobs(policy: Policy, ids: Sequence[int]) -> list[float]:
    """Return the policy's log-probability of every token but the first: one plain forward pass."""
    logprobs = plain_logits(policy, ids)[:-1].log_softmax(-1)
    taken: list[float] = logprobs.gather(1, torch.tensor(ids[1:], device=policy.device)[:, None])[:, 0].tolist()
    return taken


def trial_limit(trial: Policy, ids: Sequence[int]) -> float:
    """Return the mean difference that rounding explains for a trial policy: three times what it does to it here.

    Moved that far, a model of many layers multiplies rounding errors, so their effect is measured and not assumed.
    """
    exact = replace(trial, compute_dtype=torch.float32)
    rounding = difference(plain_logprobs(trial, ids), plain_logprobs(exact, ids)).mean
    return max(tolerance(trial.compute_dtype), _ROUNDINGS * rounding)


def trial_ids(policy: Policy) -> list[int]:
    """Return a prompt of token ids from all over the vocabulary."""
    size = policy.causal_lm.get_input_embeddings().weight.shape[0]
    length = min(_TRIAL_TOKENS, policy.max_context - 1)
    return [(7919 * i + 3) % size for i in range(length)]


def trial_policy(policy: Policy, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], Policy]:
    """Return the weights with every matrix moved by seeded noise, and a policy of the same kind that has them."""
    noise = torch.Generator().manual_seed(0)
    shaken = {name: _shaken(weight, noise) if weight.ndim > 1 else weight for name, weight in weights.items()}
    return shaken, _plain_policy(policy, shaken)


def require_complete(policy: Policy) -> None:
    """Raise UserError unless a plain model with the written weights is the policy, its adapters moved."""
    ids = trial_ids(policy)
    if not any(is_wrapper(module) for module in policy.model.modules()):
        return
    with moved(policy.model):
        written = _plain_policy(policy, served_weights(policy))
        found, limit = difference(plain_logprobs(written, ids), plain_logprobs(policy, ids)), trial_limit(written, ids)
    if not found.mean <= limit:
        raise UserError(
            f"{named('rollout.vllm')}: the policy's weights cannot be written for vLLM: a plain model with them gives "
            f"other log-probabilities, by {number(found.mean, 2)} nats a token; use {named('rollout.vllm', 'none')}"
        )


def _plain_policy(policy: Policy, weights: dict[str, Tensor]) -> Policy:
    """Return a policy of the same kind without adapters that has these weights."""
    model = AutoModelForCausalLM.from_config(plain_config(policy), dtype=torch.float32)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    return replace(policy, model=model.to(policy.device).eval())


def _shaken(weight: Tensor, noise: torch.Generator) -> Tensor:
    step = torch.randn(weight.shape, generator=noise) * weight.float().std() * _TRIAL_SHARE
    return (weight.float() + step).to(weight.dtype)
