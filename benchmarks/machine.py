"""The machine and the versions that a measurement belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from mathgrpo.hardware.processor import versions_of

PACKAGES = ("mathgrpo", "torch", "transformers", "trl", "tokenizers", "datasets", "accelerate")
SHOWN_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def machine_facts(device: str) -> dict[str, Any]:
    """Return processor, cores, memory, instruction sets, system and, with CUDA, the accelerator."""
    text = _read("/proc/cpuinfo")
    facts: dict[str, Any] = {
        "cpu": cpu_field("model name", text) or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "flags": [flag for flag in SHOWN_FLAGS if flag in cpu_field("flags", text).split()],
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_before": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "MKL_", "MALLOC_", "KMP_"))},
    }
    if device == "cuda":
        import torch

        facts |= {"gpu": torch.cuda.get_device_name(), "gpu_memory_gb": round(_gpu_bytes() / 1e9, 1)}
    return facts


def versions() -> dict[str, str]:
    """Return the versions of Python, the packages of both sides and this repository's revision."""
    found = versions_of(PACKAGES)
    return {"python": found.pop("python"), "revision": revision(), **found}


def peer_version(python: str, package: str) -> str:
    """Return a package's version in another environment, "" when it cannot be asked."""
    code = f"from importlib import metadata; print(metadata.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def revision() -> str:
    """Return the commit that is checked out, with "+" when files differ from it; "unknown" outside of git."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changed else "")


def ask_nvidia_smi(fields: str) -> str:
    """Return what nvidia-smi says of the first card, by the names of its --query-gpu; "" where it does not say."""
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip()


def cpu_field(name: str, cpuinfo: str) -> str:
    """Return the first value of a field of /proc/cpuinfo, "" when it is not there.

    Example:
        >>> cpu_field("model name", "processor : 0\\nmodel name : Fast CPU\\n")
        'Fast CPU'
    """
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _gpu_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
