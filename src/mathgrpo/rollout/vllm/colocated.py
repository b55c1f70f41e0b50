"""vLLM in this process, where it is installed beside us."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError, named
from mathgrpo.rollout.vllm.backend import Backend, Drawn, Request, ServerLost
from mathgrpo.rollout.vllm.served.mathgrpo_vllm_worker import WeightsExtension
from mathgrpo.rollout.vllm.versions import require_tested, tested_text


def import_vllm(section: VllmSection) -> Any:
    """Return the vllm module.

    Raises: UserError when it is not installed here, does not import, its version is outside the tested range, or the
    settings are a server's.
    """
    asked = named("rollout.vllm.mode", "colocate")
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            f"{asked}: vLLM is not installed in this environment, and vllm {tested_text()} wants a transformers older "
            f"than 5.20; install both, or use {named('rollout.vllm.mode', 'server')} with an environment of its own"
        )
    try:
        vllm = importlib.import_module("vllm")
    except Exception as error:  # a build for another torch fails with whatever its first operator fails with
        raise UserError(
            f'{asked}: vLLM does not import here ({type(error).__name__}: {error}); use mode "server"'
        ) from error
    require_tested(str(vllm.__version__), section, asked)
    if section.arguments:
        raise UserError(
            f"{named('rollout.vllm.arguments')}: are for a server's command line; leave them out with colocate"
        )
    return vllm


class Colocated(Backend):
    """vLLM's own engine object; it logs to this process's own output."""

    def __init__(self, vllm: Any, arguments: Mapping[str, Any]) -> None:
        self._vllm = vllm
        extension = f"{WeightsExtension.__module__}.{WeightsExtension.__qualname__}"
        self._llm = vllm.LLM(worker_extension_cls=extension, **arguments)
        self.where = f"vLLM {vllm.__version__} in this process"

    def sample(self, requests: Sequence[Request]) -> list[list[Drawn]]:
        settings = [self._vllm.SamplingParams(**request.parameters) for request in requests]
        prompts = [{"prompt_token_ids": list(request.ids)} for request in requests]
        outputs = self._llm.generate(prompts, settings, use_tqdm=False)
        return [[_drawn(row) for row in sorted(output.outputs, key=lambda row: row.index)] for output in outputs]

    def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        settings = self._vllm.SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0)
        [output] = self._llm.generate([{"prompt_token_ids": list(ids)}], [settings], use_tqdm=False)
        return [entry[token].logprob for token, entry in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]

    def load(self, path: str) -> list[Any]:
        answers: list[Any] = self._llm.collective_rpc("mathgrpo_load", args=(path,))
        if not self._llm.reset_prefix_cache():
            raise ServerLost("it did not drop its prefix cache")
        return answers

    def sleep(self) -> None:
        self._llm.sleep(level=1)

    def wake(self) -> None:
        self._llm.wake_up()

    def close(self) -> None:
        """Give up vLLM's engine; its memory goes with the last reference."""
        self._llm = None


def _drawn(row: Any) -> Drawn:
    ids = list(row.token_ids)
    return Drawn(ids, [entry[token].logprob for token, entry in zip(ids, row.logprobs, strict=True)])
