"""From a recipe's [rollout.vllm] to an engine that has proven itself."""

from __future__ import annotations

from pathlib import Path

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError
from mathgrpo.models import Policy
from mathgrpo.rollout.vllm.backend import Backend
from mathgrpo.rollout.vllm.colocated import Colocated, import_vllm
from mathgrpo.rollout.vllm.pushed_weights import served_weights, write_model_folder
from mathgrpo.rollout.vllm.server_command import Launch
from mathgrpo.rollout.vllm.server_process import OwnServer, named_server
from mathgrpo.rollout.vllm.versions import find_python
from mathgrpo.rollout.vllm.vllm_engine import VllmEngine, exchange_folder


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
        engine = VllmEngine(policy, backend, section, scratch)
    except BaseException:
        scratch.cleanup()
        raise
    if section.trial:
        try:
            found = engine.trial()
        except BaseException:
            engine.close()
            raise
        engine.reason += f"; trial passed, log-probabilities {found.mean:.1g} apart on average"
    return engine


def _backend(policy: Policy, section: VllmSection, max_rows: int, folder: Path) -> Backend:
    if section.url:
        if section.mode != "server" or section.python:
            raise UserError(
                f"rollout.vllm.url={section.url}: names a server that runs; leave rollout.vllm.python and mode out"
            )
        return named_server(section)
    vllm = import_vllm(section) if section.mode == "colocate" else None
    python = find_python(section) if vllm is None else ""
    dtype = str(policy.compute_dtype).removeprefix("torch.")
    context = section.max_model_len or policy.max_context
    launch = Launch(python, folder, dtype, context, max_rows, policy.device)
    (folder / "model").mkdir()
    write_model_folder(policy, served_weights(policy), folder / "model")
    return Colocated(vllm, launch, section) if vllm is not None else OwnServer(launch, section)
