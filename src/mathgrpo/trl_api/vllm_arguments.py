"""use_vllm=True: TRL's fields about vLLM in the terms of this package's vLLM engine."""

from __future__ import annotations

import importlib.util
import os
import sys
import time

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError
from mathgrpo.grpo.importance import Importance
from mathgrpo.models import Policy
from mathgrpo.rollout import Engine, build_engine
from mathgrpo.rollout.vllm.client import Client
from mathgrpo.rollout.vllm.versions import PYTHON_VARIABLE, tested_text
from mathgrpo.trl_api.grpo_config import GRPOConfig


def build_trainer_engine(policy: Policy, args: GRPOConfig) -> Engine:
    """Return the rollout engine of a trainer: vLLM with use_vllm=True, else the fastest one here.

    Raises: UserError when no vLLM is found, or it does not compute what the policy does.
    """
    if not args.use_vllm:
        return build_engine(policy)
    section = vllm_section(args, policy.device)
    if section.url:
        _wait_for(section.url, args.vllm_server_timeout)
    return build_engine(policy, "vllm", vllm=section)


def vllm_section(args: GRPOConfig, device: str) -> VllmSection:
    """Return the engine's settings.

    vllm_mode="server": the server named. "colocate": in this process where vLLM is installed beside this package, else
    a server of our own in the environment that MATHGRPO_VLLM_PYTHON names; that variable goes first.

    Raises: UserError when there is no vLLM of either kind.
    """
    if args.vllm_mode == "server":
        host = "127.0.0.1" if args.vllm_server_host == "0.0.0.0" else args.vllm_server_host
        return VllmSection(url=args.vllm_server_base_url or f"http://{host}:{args.vllm_server_port}")
    own_environment = bool(os.environ.get(PYTHON_VARIABLE))
    if not own_environment and importlib.util.find_spec("vllm") is None:
        raise UserError(
            f"use_vllm=True: no vLLM is found; set {PYTHON_VARIABLE} to the python of an environment with vllm "
            f'{tested_text()}, or use vllm_mode="server" and vllm_server_base_url, or leave use_vllm out: the engine '
            "here samples from the trainer's own weights"
        )
    arguments: list[str] = []
    if args.vllm_tensor_parallel_size > 1:
        arguments += ["--tensor-parallel-size", str(args.vllm_tensor_parallel_size)]
    if args.vllm_model_impl != "vllm":
        arguments += ["--model-impl", args.vllm_model_impl]
    return VllmSection(
        mode="server" if own_environment else "colocate", arguments=tuple(arguments),
        max_model_len=args.vllm_max_model_length or 0, gpu_memory_utilization=args.vllm_gpu_memory_utilization,
        sleep=args.vllm_enable_sleep_mode and device != "cpu",  # CPU builds have no device memory to give back
    )  # fmt: skip


def importance_of(args: GRPOConfig) -> Importance | None:
    """Return the importance weights of the policy loss, None without a correction."""
    if not (args.use_vllm and args.vllm_importance_sampling_correction):
        return None
    level, how = args.vllm_importance_sampling_mode.split("_")
    return Importance(
        args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max, mask=how == "mask",
        whole=level == "sequence",
    )  # fmt: skip


def _wait_for(url: str, timeout_s: float) -> None:
    """Return when the server answers or the time is over; the engine then says what is wrong."""
    client = Client(url.rstrip("/"), timeout_s=5.0, key=os.environ.get("VLLM_API_KEY", ""))
    deadline = time.monotonic() + timeout_s
    if not client.is_ready():
        print(f"waiting for the vLLM server at {url} (vllm_server_timeout={timeout_s:g} s)", file=sys.stderr)
    while not client.is_ready() and time.monotonic() < deadline:
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
