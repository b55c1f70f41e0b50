"""cuDNN's attention is out of the way on CUDA alone, and only inside the block."""

from __future__ import annotations

import torch
from torch.backends import cuda

from mathgrpo.hardware.cuda_care import without_cudnn_attention


def test_only_cudnn_is_left_out_and_only_inside() -> None:
    before = cuda.cudnn_sdp_enabled()
    with without_cudnn_attention("cuda:0"):
        assert not cuda.cudnn_sdp_enabled()
        assert cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled() and cuda.math_sdp_enabled()
    with without_cudnn_attention(torch.device("cpu")):
        assert cuda.cudnn_sdp_enabled() == before
    assert cuda.cudnn_sdp_enabled() == before is True
