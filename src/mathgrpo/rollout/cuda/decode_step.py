"""Prompts into the pool, and one decode step, whole: from the last sampled tokens to the next, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.hardware.cuda_care import upload
from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda.kernels import Reach, TorchKernels
from mathgrpo.rollout.cuda.places import Places, TokenPool
from mathgrpo.rollout.decoder import in_batches
from mathgrpo.rollout.torch_ops.torch_decoder import prefill_batch
from mathgrpo.types import Sampling

_PREFILL_TOKENS = 16384
"""Padded prompt tokens computed at once: bounds the memory of activations."""


def prefill(model: QwenView, pool: TokenPool, prompts: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """Write the prompts' keys and values at these starts; return their next-token logits, [n, V]."""
    return in_batches(
        [len(prompt) for prompt in prompts],
        _PREFILL_TOKENS,
        lambda batch: _prefill_batch(model, pool, [prompts[i] for i in batch], [starts[i] for i in batch]),
    )


def _prefill_batch(model: QwenView, pool: TokenPool, prompts: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    device, lengths = model.embedding.device, torch.tensor([len(prompt) for prompt in prompts])
    real = upload((torch.arange(int(lengths.max())) < lengths[:, None]).flatten().nonzero()[:, 0], device)
    targets = upload(torch.cat([torch.arange(s, s + len(p)) for s, p in zip(starts, prompts, strict=True)]), device)

    def write(layer: int, k: Tensor, v: Tensor) -> None:
        pool.keys(layer).index_copy_(1, targets, k.flatten(0, 1)[real].transpose(0, 1))
        pool.values(layer).index_copy_(1, targets, v.flatten(0, 1)[real].transpose(0, 1))

    return prefill_batch(model, prompts, write)


def decode_step(
    model: QwenView, kernels: TorchKernels, pool: TokenPool, places: Places, reach: Reach, sampling: Sampling
) -> None:
    """Append each row's last token to its memory, and sample and note the next one.

    The residual x keeps the embedding's precision, as in the model under autocast.
    """
    eps, dtype = model.eps, model.dtype
    norms = [layer.input_norm for layer in model.layers[1:]] + [model.norm]
    plan = kernels.plan(model, places, reach)
    x = F.embedding(places.tokens, model.embedding)
    h = kernels.norm(x, model.layers[0].input_norm, eps, dtype)
    for index, (layer, next_norm) in enumerate(zip(model.layers, norms, strict=True)):
        keys, values = pool.keys(index), pool.values(index)
        q = kernels.rotate(F.linear(h, *layer.qkv), layer.head_norm, model, keys, values, places)
        attended = kernels.attend(q, keys, values, places, plan)
        x, h = kernels.add_norm(x, F.linear(attended, *layer.output), layer.mlp_norm, eps, dtype)
        gated = kernels.gate(F.linear(h, *layer.gate_up))
        x, h = kernels.add_norm(x, F.linear(gated, *layer.down), next_norm, eps, dtype)
    kernels.sample(F.linear(h, *model.head), places.numbers, places, places.numbers, sampling)
