"""What this machine offers, gathered without loading a model; nothing in it says who is asking."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from mathgrpo.cache import cache_folder
from mathgrpo.cli.options import quiet_libraries
from mathgrpo.hardware.processor import c_compiler, cpu_facts, cpu_name, no_compiler, versions_of

PACKAGES = (
    "mathgrpo", "torch", "transformers", "tokenizers", "safetensors", "peft", "bitsandbytes", "triton", "vllm",
    "datasets", "math-verify", "reasoning-gym", "numpy", "pydantic", "typer", "starlette", "uvicorn", "optuna",
    "trackio", "wandb", "tensorboard",
)  # fmt: skip
SETTINGS = (
    "MATHGRPO_CPU_DTYPE", "CC", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE",
    "TOKENIZERS_PARALLELISM", "TRITON_INTERPRET",
)  # fmt: skip
"""Environment variables that change what happens, and whose values are nobody's secret."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something would work here. why: the reason when not, what it is when it does."""

    name: str
    works: bool
    why: str


def environment() -> dict[str, Any]:
    """Return the machine in the order a bug report wants it: versions, device, memory, settings, what works."""
    import torch

    found = {
        "versions": versions(),
        "system": {"platform": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
        "device": device(),
        "memory": memory(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "cache": str(cache_folder()),
        "engines": [asdict(verdict) for verdict in engines(torch.cuda.is_available())],
        "adapters": [asdict(verdict) for verdict in adapters()],
        "extras": [asdict(verdict) for verdict in extras()],
    }
    return {name: without_names(value) for name, value in found.items()}


def versions() -> dict[str, str | None]:
    """Return Python's and each package's version, None for what is not installed. Nothing is imported."""
    installed = versions_of(PACKAGES)
    return {name: installed.get(name) for name in ("python", *PACKAGES)} | {
        "mathgrpo": installed.get("mathgrpo", "a checkout that is not installed")
    }


def device() -> dict[str, Any]:
    """Return what run.device=auto would take, and what CUDA says of itself."""
    import torch

    threads, built = torch.get_num_threads(), torch.version.cuda
    if not torch.cuda.is_available():
        why = f"this PyTorch is built for CUDA {built}, no device seen" if built else "this PyTorch is a CPU build"
        return {"name": "cpu", "threads": threads, "no_cuda": why}
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    devices = [
        {"name": each.name, "capability": f"{each.major}.{each.minor}", "memory_gb": round(each.total_memory / 1e9, 1)}
        for each in properties
    ]
    return {"name": "cuda", "threads": threads, "cuda": built, "devices": devices}


def memory() -> dict[str, float]:
    """Return gigabytes (10^9 bytes): main memory this process may use, what of it is free, free space on the disks."""
    from mathgrpo.hardware.device_memory import device_bytes, free_bytes

    cache = cache_folder().absolute()
    existing = next((each for each in (cache, *cache.parents) if each.is_dir()), Path())
    found = {
        "main_gb": device_bytes("cpu"), "main_free_gb": free_bytes("cpu"),
        "disk_here_free_gb": psutil.disk_usage(".").free, "disk_cache_free_gb": psutil.disk_usage(str(existing)).free,
    }  # fmt: skip
    return {name: round(value / 1e9, 1) for name, value in found.items()}


def engines(has_cuda: bool) -> list[Verdict]:
    """Return the rollout engines, fastest first, as far as a machine without a model tells."""
    compiler, family = c_compiler(), "Qwen2, Qwen3, Llama"
    triton = "triton is not installed" if find_spec("triton") is None else ""
    compiled = "CPU only; this machine decodes on CUDA" if has_cuda else f"{family}; built with {compiler}"
    no_cuda = "" if has_cuda else "needs a CUDA device"
    return [
        Verdict("native, CUDA graphs", has_cuda, no_cuda or family),
        Verdict("native, Triton kernels", not (no_cuda or triton), no_cuda or triton or family),
        Verdict("native, compiled", bool(compiler) and not has_cuda, compiled if compiler else no_compiler()),
        Verdict("native, fused", True, f"{family}, in torch operations"),
        Verdict("native, cached", True, "any causal language model that keeps keys and values"),
        Verdict("fallback", True, "any causal language model, prompt by prompt; slow"),
        _vllm(),
    ]


def adapters() -> list[Verdict]:
    """Return how a model can be trained without training all of its weights."""
    return [
        _part("lora", ("peft",), "model.lora", extra="qlora"),
        _part("nf4", ("bitsandbytes",), 'model.quantization = "nf4" under model.lora', extra="qlora"),
    ]


def extras() -> list[Verdict]:
    """Return what the optional parts of the package are for, and which are installed."""
    return [
        _part("data", ("datasets", "pyarrow"), "problems from the hub and Parquet files"),
        _part("serve", ("starlette", "uvicorn"), "mathgrpo serve"),
        _part("sweep", ("optuna",), "mathgrpo sweep"),
        *(_part(name, (name,), "training.trackers") for name in ("trackio", "wandb", "tensorboard")),
    ]


def _part(name: str, modules: Sequence[str], what: str, *, extra: str = "") -> Verdict:
    there = all(find_spec(module) is not None for module in modules)
    return Verdict(name, there, what if there else f'{what}; run: pip install "mathgrpo[{extra or name}]"')


def of_recipe(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a recipe's model, counted without reading a weight, and which engines serve its kind.

    Raises: UserError when there is no such recipe or no such model.
    """
    from mathgrpo.config import load_recipe
    from mathgrpo.models.known_modules import why_not_served
    from mathgrpo.models.shape import hollow_model, outline

    model = load_recipe(name, overrides).model
    quiet_libraries()
    obstacle = why_not_served(hollow_model(model))
    served = "every native engine that works here" if not obstacle else f"native, cached, or generate: {obstacle}"
    architecture, counts = outline(model)
    return {"model": shortened(model.path), "architecture": architecture, **asdict(counts), "served": served}


def processor() -> str:
    """Return the processor's name and what decides how fast it multiplies."""
    facts = cpu_facts()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16") if flag in flags]
    return f"{cpu_name()} ({', '.join(known)})" if known else cpu_name()


def shortened(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a text with the user's home folder as ~, and their name taken out wherever else it stands.

    Example:
        >>> shortened("/home/ada/models", {"HOME": "/home/ada", "USER": "ada"})
        '~/models'
    """
    home = environment.get("HOME") or environment.get("USERPROFILE") or ""
    if len(home) > 1:
        text = text.replace(home, "~")
    name = environment.get("USER") or environment.get("USERNAME") or ""
    return re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", "USER", text) if name else text


def without_names(value: Any) -> Any:
    """Return JSON data with every text in it shortened."""
    if isinstance(value, dict):
        return {name: without_names(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_names(each) for each in value]
    return shortened(value) if isinstance(value, str) else value


def _vllm() -> Verdict:
    python = os.environ.get("MATHGRPO_VLLM_PYTHON", "")
    if python:
        there = Path(python).expanduser().is_file()
        return Verdict("vllm", there, f"MATHGRPO_VLLM_PYTHON names {'one' if there else 'no file'}")
    beside = find_spec("vllm") is not None
    hint = "not installed beside mathgrpo, and MATHGRPO_VLLM_PYTHON names no environment with it"
    return Verdict("vllm", beside, 'rollout.vllm.mode = "colocate"' if beside else hint)
