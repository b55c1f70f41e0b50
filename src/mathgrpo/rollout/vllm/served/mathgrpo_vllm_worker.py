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
        from safetensors import safe_open

        digest = WeightsDigest()

        def weights() -> Iterator[tuple[str, Any]]:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    tensor = file.get_tensor(name)
                    digest.add(name, tensor)
                    yield name, tensor

        self.model_runner.reload_weights(weights_iterator=weights())
        _pack_again(self.model_runner.get_model())
        return {"digest": digest.hexdigest(), "tensors": digest.num_tensors}


def _pack_again(model: Any) -> None:
    """Pack the embedding and output matrices for the CPU's kernels once more; elsewhere nothing is packed.

    A reload (vLLM 0.32) packs the matrices that the file names. An output layer tied to the embedding is not among
    them, so it would go on computing with the packed copy of its old weights.
    """
    for module in model.modules():
        if hasattr(module, "cpu_linear") and getattr(module, "weight", None) is not None and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)


class WeightsDigest:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_tensors = 0

    def add(self, name: str, tensor: Any) -> None:
        """Take in the next tensor, which lies on the CPU."""
        import torch

        self._hash.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        self._hash.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        self.num_tensors += 1

    def hexdigest(self) -> str:
        """Return the digest of all tensors taken in."""
        return self._hash.hexdigest()


def weights_digest(weights: Iterable[tuple[str, Any]]) -> str:
    """Return the digest of named tensors given in the order of their names."""
    digest = WeightsDigest()
    for name, tensor in weights:
        digest.add(name, tensor)
    return digest.hexdigest()
