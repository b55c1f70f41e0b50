"""Compile every Triton kernel for two compute capabilities. Run by a test, in its own process."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mathgrpo.rollout.cuda import triton_attention, triton_layers, triton_sampling

COUNTS = (
    "head_stride",
    "stride",
    "prompt_starts",
    "prompt_lengths",
    "tile_first",
    "tile_rows",
    "slots",
    "ages",
    "done",
)
INDICES = ("rows", "who", "best", "keys", "tokens", "out_starts", "ids", "limit", "eos")
TYPES: dict[str, str] = {
    **dict.fromkeys((*COUNTS[2:], *INDICES), "*i64"),
    **dict.fromkeys(("sums", "tops", "totals", "highest", "mass", "logprobs", "x", "weight", "cos", "sin"), "*fp32"),
    **dict.fromkeys(("scale", "temperature", "eps"), "fp32"),
    **dict.fromkeys(("num_rows", "vocab", "num_chunks"), "i32"),
    **dict.fromkeys(("head_stride", "stride"), "i64"),
    **dict.fromkeys(("head_norm", "factors"), "*fp32"),
    **dict.fromkeys(("addresses", "start_of_block"), "*i64"),
    **dict.fromkeys(("beta1", "beta2"), "fp32"),
    "tensor_of_block": "*i32",
}
SIZED = ("q", "values", "out", "delta", "gate_up", "qkv", "logits")


def compile_kernel(
    kernel: Any, dtype: str, capability: int, keys: str = "*i64", num_warps: int = 4, **constants: Any
) -> Any:
    """Return one kernel, compiled for pointers of this type down to machine code."""
    types = TYPES | dict.fromkeys(SIZED, f"*{dtype}") | {"keys": keys}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    target, options = GPUTarget("cuda", capability, 32), {"num_warps": num_warps}
    compiled = triton.compile(source, target=target, options=options)
    assert compiled.asm["cubin"], kernel.__name__
    assert compiled.metadata.shared <= 99 * 1024, f"{kernel.__name__} asks for more than a consumer card's memory"
    return compiled


def main() -> None:
    """Compile for H100 / H200 (90) and A100 (80), at the sizes of Qwen2.5-0.5B."""
    for capability in (90, 80):
        for dtype, columns in (("bf16", 64), ("fp32", 32)):
            pool = f"*{dtype}"
            for splits in (1, 4):
                sizes = {"SHARE": 7, "HEADS": 14, "DIM": 64, "COLUMNS": columns, "BLOCK_D": 64}
                sizes |= {"PROMPT_SPLITS": splits, "OWN_SPLITS": splits}
                compile_kernel(triton_attention._attend_prompts, dtype, capability, pool, **sizes, TILE=64)
                compile_kernel(triton_attention._attend_own, dtype, capability, pool, **sizes, TILE=16)
            merged = {"HEADS": 14, "DIM": 64, "BLOCK_D": 64, "PROMPT_SPLITS": 4, "SPLITS": 8, "BLOCK_S": 8}
            compile_kernel(triton_attention._merge, dtype, capability, **merged)
            compile_kernel(triton_layers._add_norm, dtype, capability, SIZE=896, BLOCK=1024, ADD=True)
            compile_kernel(triton_layers._gate, dtype, capability, SIZE=4864, BLOCK=1024)
            for norm in (False, True):
                heads = {"HEADS": 14, "KV": 2, "DIM": 64, "BLOCK_H": 32, "BLOCK_D": 64, "NORM": norm}
                compile_kernel(triton_layers._rotate, dtype, capability, pool, **heads)
            for greedy in (False, True):
                compile_kernel(triton_sampling._sum_chunks, dtype, capability, CHUNK=1024, GREEDY=greedy)
                chunks = {"CHUNK": 1024, "CHUNKS": 256, "ENDS": 2, "GREEDY": greedy}
                compile_kernel(triton_sampling._draw_tokens, dtype, capability, **chunks)
    print("compiled")


if __name__ == "__main__":
    main()
