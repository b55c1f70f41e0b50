"""vLLM in this process, where it is installed beside us."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError, named
from mathgrpo.rollout.vllm.backend import Backend, Drawn, Request, ServerLost, require_logprobs, sampling_fields
from mathgrpo.rollout.vllm.served.mathgrpo_vllm_worker import WeightsExtension
from mathgrpo.rollout.vllm.server_command import CPU_BATCH_TOKENS, Launch
from mathgrpo.rollout.vllm.versions import require_tested, tested_text


def import_vllm(section: VllmSection) -> Any:
    """Return the vllm module.

    Raises: UserError when it is not installed here, does not import, or its version is outside the tested range.
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
    return vllm


class Colocated(Backend):
    """vLLM's own engine object; it logs to this process's own output."""

    def __init__(self, vllm: Any, launch: Launch, section: VllmSection) -> None:
        if section.arguments:
            raise UserError(
                f"{named('rollout.vllm.arguments')}: are for a server's command line; leave them out with colocate"
            )
        self._vllm = vllm
        more: dict[str, Any] = {"max_num_seqs": launch.max_rows} if launch.max_rows else {}
        if launch.device == "cpu":  # see `server_command`
            tokens = max(launch.max_context, CPU_BATCH_TOKENS)
            more |= {"enable_chunked_prefill": False, "max_num_batched_tokens": tokens}
        self._llm = vllm.LLM(
            model=str(launch.folder / "model"), dtype=launch.dtype, max_model_len=launch.max_context,
            gpu_memory_utilization=section.gpu_memory_utilization, enable_sleep_mode=section.sleep,
            logprobs_mode="processed_logprobs", generation_config="vllm",
            worker_extension_cls=f"{WeightsExtension.__module__}.{WeightsExtension.__qualname__}", **more,
        )  # fmt: skip
        self.where = f"vLLM {vllm.__version__} in this process"

    def sample(self, requests: Sequence[Request]) -> list[list[Drawn]]:
        settings = [self._vllm.SamplingParams(**sampling_fields(request)) for request in requests]
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(request.ids)} for request in requests], settings, use_tqdm=False
        )
        return [[_drawn(output) for output in sorted(o.outputs, key=lambda row: row.index)] for o in outputs]

    def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        settings = self._vllm.SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0)
        [output] = self._llm.generate([{"prompt_token_ids": list(ids)}], [settings], use_tqdm=False)
        return [entry[token].logprob for token, entry in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]

    def call(self, method: str, argument: str) -> list[Any]:
        results: list[Any] = self._llm.collective_rpc(method, args=(argument,))
        return results

    def forget_prefixes(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise ServerLost("it did not drop its prefix cache")

    def sleep(self) -> None:
        self._llm.sleep(level=1)

    def wake(self) -> None:
        self._llm.wake_up()

    def close(self) -> None:
        """Give up vLLM's engine; its memory goes with the last reference."""
        self._llm = None


def _drawn(output: Any) -> Drawn:
    ids = list(output.token_ids)
    return require_logprobs(Drawn(ids, [entry[t].logprob for t, entry in zip(ids, output.logprobs, strict=True)]))
