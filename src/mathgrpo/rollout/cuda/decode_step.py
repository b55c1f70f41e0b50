"""One decode step, whole: from the last sampled tokens to the next, everything on the device."""

from __future__ import annotations

import torch.nn.functional as F

from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda.kernels import Kernels, Reach
from mathgrpo.rollout.cuda.places import Places
from mathgrpo.rollout.cuda.pool import TokenPool
from mathgrpo.types import Sampling


def decode_step(
    model: QwenView, kernels: Kernels, pool: TokenPool, places: Places, reach: Reach, sampling: Sampling
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
