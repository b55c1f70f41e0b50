"""From a recipe's [rollout.vllm] to an engine that has proven itself."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError, named
from mathgrpo.models import Policy
from mathgrpo.rollout.vllm.backend import Backend, ServerLost
from mathgrpo.rollout.vllm.client import Client
from mathgrpo.rollout.vllm.colocated import Colocated, import_vllm
from mathgrpo.rollout.vllm.pushed_weights import plain_config, served_weights, write_weights
from mathgrpo.rollout.vllm.server_process import OwnServer
from mathgrpo.rollout.vllm.versions import find_python, require_tested
from mathgrpo.rollout.vllm.vllm_engine import Scratch, VllmEngine
from mathgrpo.text import number

CPU_BATCH_TOKENS = 8192
"""Prompt tokens that a CPU build computes together."""


def build_vllm_engine(policy: Policy, section: VllmSection, max_rows: int = 0) -> VllmEngine:
    """Return the engine on a running vLLM, started here unless rollout.vllm.url names one.

    It has taken a trial: weights that nobody trained are pushed, and vLLM must give them the log-probabilities that
    a plain forward pass gives them (off with rollout.vllm.trial=false).

    Raises: UserError for whatever keeps it from running or from computing what the policy computes.
    """
    if section.sleep and policy.device == "cpu":
        raise UserError("rollout.vllm.sleep=true: vLLM's CPU builds do not sleep; leave it out on a CPU")
    scratch = exchange_folder(section)
    try:
        backend = _backend(policy, section, max_rows, Path(scratch.name))
    except BaseException:
        scratch.cleanup()
        raise
    engine = VllmEngine(policy, backend, section, scratch)
    if section.trial:
        try:
            found = engine.trial()
        except BaseException:
            engine.close()
            raise
        engine.reason += f"; trial passed, log-probabilities {number(found.mean, 1)} apart on average"
    return engine


def exchange_folder(section: VllmSection) -> Scratch:
    """Return a new folder for weights below rollout.vllm.exchange, in memory where the machine has such a place.

    Raises: UserError when it cannot be made.
    """
    shared = Path("/dev/shm")
    place = section.exchange or (str(shared) if os.access(shared, os.W_OK) else tempfile.gettempdir())
    try:
        return tempfile.TemporaryDirectory(prefix="mathgrpo-vllm-", dir=place)
    except OSError as error:
        raise UserError(
            f"rollout.vllm.exchange={place}: no folder can be made there ({error.strerror}); name one that can be "
            "written, here and where vLLM runs"
        ) from error


def _backend(policy: Policy, section: VllmSection, max_rows: int, scratch: Path) -> Backend:
    if section.url:
        return _named_server(section)
    vllm = import_vllm(section) if section.mode == "colocate" else None
    python = find_python(section) if vllm is None else ""
    folder = scratch / "model"
    folder.mkdir()
    plain_config(policy).save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    write_weights(served_weights(policy), folder / "model.safetensors")
    arguments = _engine_arguments(policy, section, max_rows, folder)
    if vllm is not None:
        return Colocated(vllm, arguments)
    return OwnServer(python, scratch, arguments, section, on_cpu=policy.device == "cpu")


def _named_server(section: VllmSection) -> Client:
    """Return a server that somebody else started, at rollout.vllm.url.

    Raises: UserError when none answers there, of a tested version, with the log-probabilities that are needed.
    """
    if section.mode != "server" or section.python:
        raise UserError(
            f"rollout.vllm.url={section.url}: names a server that runs; leave rollout.vllm.python and mode out"
        )
    here, none = named("rollout.vllm.url", section.url), named("rollout.vllm.url", '""')
    client = Client(section.url.rstrip("/"), timeout_s=section.timeout_s, key=os.environ.get("VLLM_API_KEY", ""))
    try:
        version, mode = client.version(), client.logprobs_mode()
    except (ServerLost, UserError) as error:
        raise UserError(
            f"{here}: no vLLM server with development routes answers there ({error}); "
            f"start one as docs/vllm.md says, or use {none} to have one started"
        ) from error
    if mode != "processed_logprobs":
        raise UserError(
            f"{here}: the server reports {mode or 'unknown'} log-probabilities, not "
            "those it samples from; start it with --logprobs-mode processed_logprobs"
        )
    require_tested(version, section, here)
    return client


def _engine_arguments(policy: Policy, section: VllmSection, max_rows: int, folder: Path) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, by the names of its Python interface."""
    context, on_cpu = section.max_model_len or policy.max_context, policy.device == "cpu"
    arguments: dict[str, Any] = {
        "model": str(folder), "dtype": str(policy.compute_dtype).removeprefix("torch."), "max_model_len": context,
        "generation_config": "vllm", "logprobs_mode": "processed_logprobs",
    }  # fmt: skip
    if max_rows:
        arguments["max_num_seqs"] = max_rows
    if not on_cpu or section.mode == "colocate":  # a server on a CPU is told gigabytes, in its environment
        arguments["gpu_memory_utilization"] = section.gpu_memory_utilization
    if on_cpu:
        # A CPU build of vLLM 0.32 dies of a seeded request whose prompt is computed in parts.
        arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, CPU_BATCH_TOKENS)}
    if section.sleep:
        arguments["enable_sleep_mode"] = True
    return arguments
