"""cuDNN's attention is out of the way for a policy on CUDA, and for no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.backends import cuda

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.models import policy_from


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    assert cuda.cudnn_sdp_enabled()
    yield
    cuda.enable_cudnn_sdp(True)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_only_cudnn_is_left_out_and_only_on_cuda(device: str) -> None:
    policy_from(tiny_model(), tiny_tokenizer(), device=device, dtype=torch.float32, name="tiny")
    assert cuda.cudnn_sdp_enabled() == (device == "cpu")
    assert cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled() and cuda.math_sdp_enabled()
