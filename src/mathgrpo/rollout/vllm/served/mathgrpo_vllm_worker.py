"""What runs inside vLLM's worker: takes new weights from a file and says exactly which it took.

vLLM imports this file with the Python of its own environment, in which this package need not exist: it uses the
standard library, torch and safetensors only, and its folder holds nothing that could hide another module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any


class WeightsExtension:
    """Methods added to vLLM's worker (--worker-extension-cls), called over /collective_rpc."""

    model_runner: Any

    def mathgrpo_load(self, path: str) -> dict[str, Any]:
        """Replace all weights by those of a safetensors file; return the digest and number of the tensors taken."""
        from safetensors.torch import load_file

        digest, weights = hashlib.sha256(), load_file(path)

        def taken() -> Iterator[tuple[str, Any]]:
            for name in sorted(weights):
                _add(digest, name, weights[name])
                yield name, weights[name]

        self.model_runner.reload_weights(weights_iterator=taken())
        _pack_again(self.model_runner.get_model())
        return {"digest": digest.hexdigest(), "tensors": len(weights)}


def _pack_again(model: Any) -> None:
    """Pack the embedding and output matrices for the CPU's kernels once more; elsewhere nothing is packed.

    A reload (vLLM 0.32) packs the matrices that the file names. An output layer tied to the embedding is not among
    them, so it would go on computing with the packed copy of its old weights.
    """
    for module in model.modules():
        if hasattr(module, "cpu_linear") and getattr(module, "weight", None) is not None and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)


def weights_digest(weights: Iterable[tuple[str, Any]]) -> str:
    """Return SHA-256 over names, types, shapes and bytes of tensors on the CPU, given in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in weights:
        _add(digest, name, tensor)
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: Any) -> None:
    import torch

    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
