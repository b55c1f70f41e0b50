"""The command line and environment of a vLLM server of our own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mathgrpo.config.recipe import VllmSection
from mathgrpo.rollout.vllm.client import SERVED_NAME

SERVED = Path(__file__).parent / "served"
"""Folder of the worker extension; vLLM's Python finds it by PYTHONPATH."""

EXTENSION = "mathgrpo_vllm_worker.WeightsExtension"

CPU_CACHE_GB = 2
"""Memory for keys and values of a CPU build, which has no device memory to take a share of."""

CPU_BATCH_TOKENS = 8192
"""Prompt tokens that a CPU build computes together."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a server is started with.

    Attributes:
        python: the Python of vLLM's environment.
        folder: scratch folder, with the model to load in "model".
        dtype: "float32" or "bfloat16".
        max_context: longest sequence, prompt and completion.
        max_rows: rows decoded at once; 0: vLLM's default.
        device: the policy's.
    """

    python: str
    folder: Path
    dtype: str
    max_context: int
    max_rows: int
    device: str


def server_command(launch: Launch, section: VllmSection, port: int) -> list[str]:
    """Return the command of the server.

    vLLM's module is named and not its `vllm` command, which looks for an installed distribution called vllm: its CPU
    builds have other names.
    """
    command = [
        launch.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(launch.folder / "model"),
        "--served-model-name", SERVED_NAME, "--host", "127.0.0.1", "--port", str(port), "--dtype", launch.dtype,
        "--max-model-len", str(launch.max_context), "--generation-config", "vllm",
        "--logprobs-mode", "processed_logprobs", "--worker-extension-cls", EXTENSION, "--disable-uvicorn-access-log",
    ]  # fmt: skip
    if launch.max_rows:
        command += ["--max-num-seqs", str(launch.max_rows)]
    if launch.device != "cpu":
        command += ["--gpu-memory-utilization", str(section.gpu_memory_utilization)]
    else:
        # A CPU build of vLLM 0.32 dies of a seeded request whose prompt is computed in parts.
        tokens = max(launch.max_context, CPU_BATCH_TOKENS)
        command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(tokens)]
    if section.sleep:
        command.append("--enable-sleep-mode")
    return [*command, *section.arguments]


def server_environment(launch: Launch, key: str) -> dict[str, str]:
    """Return the environment of the server: ours, without what leads Python to our packages, with what vLLM needs.

    The development routes carry weights and sleep; they are why the server listens on the loopback address only.
    """
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    wanted = {
        "PYTHONPATH": str(SERVED), "VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    cpu = {"VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GB), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return (cpu if launch.device == "cpu" else {}) | kept | wanted
