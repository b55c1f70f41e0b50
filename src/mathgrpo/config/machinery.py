"""What computes a run: decoders, kernels and layouts, chosen by run.engine and the memory plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Choice = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Machinery:
    """How a run is computed: speed and memory hang on it, and numbers within rounding, but not what they mean.

    "auto" is decided where device, model and memory plan are known. A recipe chooses between FAST and PLAIN; tests and
    benchmarks choose piece by piece.

    Attributes:
        plain: decode with the model's own forward pass over a cache, never with laid-out matrices.
        compiled: decode on a CPU in C compiled for this machine.
        graphs, triton: decode on CUDA as captured graphs, with Triton kernels in them.
        dequantize: decode a 4-bit model from matrices written out in the compute precision.
        max_rows: rows decoded at once; 0: as many as the memory plan has room for.
        recompute: keep only the layers' inputs for the backward pass and compute the layers again there.
        shared_prompt: compute each prompt once per group in the update, not once per completion.
        fused_forward: the update's own forward and backward pass for Qwen2, Qwen3 and Llama models. auto: on a CPU,
            without an adapter, where attention names no kernel.
        attention: kernel of the update's packed attention. auto: sdpa on a CPU; on CUDA the faster on its shapes.
        compile: torch.compile of the update's layers. auto: on CUDA in runs long enough to repay it.
        skip_zero_advantage: completions without advantage skip the update where that is exact (no KL, no entropy).
        token_budget: unique tokens in one micro-batch; 0: what the memory plan has room for.
        compute_copy: keep the layers' matrices in the compute precision beside their float32 masters, instead of
            casting them in each micro-batch.
    """

    plain: bool = False
    compiled: bool = True
    graphs: bool = True
    triton: bool = True
    dequantize: Choice = "auto"
    max_rows: int = 0
    recompute: Choice = "auto"
    shared_prompt: bool = True
    fused_forward: Choice = "auto"
    attention: Literal["auto", "sdpa", "varlen"] = "auto"
    compile: Choice = "auto"
    skip_zero_advantage: bool = True
    token_budget: int = 0
    compute_copy: Choice = "auto"


FAST = Machinery()
PLAIN = Machinery(
    plain=True, compiled=False, graphs=False, triton=False, dequantize="off", shared_prompt=False, fused_forward="off",
    attention="sdpa", compile="off", compute_copy="off",
)  # fmt: skip
"""The path that is read: the model's modules in rollout and update, torch's AdamW."""


def machinery_of(engine: Literal["fast", "plain"]) -> Machinery:
    """Return what run.engine chooses."""
    return PLAIN if engine == "plain" else FAST
