"""vLLM as a rollout engine: in its own environment behind a server, or in this process; weights pushed and verified."""

from mathgrpo.rollout.vllm.start_engine import build_vllm_engine
from mathgrpo.rollout.vllm.vllm_engine import VllmEngine

__all__ = ["VllmEngine", "build_vllm_engine"]
