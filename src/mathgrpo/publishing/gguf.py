"""GGUF by llama.cpp's own converter, which is on no package index: the user names the copy that is there."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import torch

from mathgrpo.errors import UserError

OUT_TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
"""Precision -> the converter's --outtype."""


def require_converter(converter: Path | None, model: str) -> Path:
    """Return the converter's path.

    Raises: UserError with the exact commands when there is none.
    """
    if converter is not None and converter.is_file():
        return converter.resolve()
    given = "none is given" if converter is None else f"{converter} is no file"
    raise UserError(
        f"--format gguf: needs llama.cpp's convert_hf_to_gguf.py, which is on no package index, and {given}; "
        f"get llama.cpp, then: mathgrpo export {model} --format gguf --converter llama.cpp/convert_hf_to_gguf.py"
    )


def convert(converter: Path, model: Path, target: Path, dtype: torch.dtype) -> int:
    """Convert a folder of merged weights and return the number of tensors in the GGUF file.

    The file's stem is the model's name in it.
    Raises: UserError with the converter's last line when it fails or writes no GGUF file with tensors.
    """
    command = [
        sys.executable, str(converter), str(model), "--model-name", target.stem, "--outfile", str(target),
        "--outtype", OUT_TYPES[dtype],
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(
            f"--converter {converter}: failed ({lines[-1][:300]}); update llama.cpp, or use --format merged"
        )
    tensors = read_tensor_count(target)
    if not tensors:
        raise UserError(f"--converter {converter}: wrote no usable GGUF file; update llama.cpp")
    return tensors


def read_tensor_count(path: Path) -> int:
    """Return the tensor count of a GGUF file, 0 for what is none: magic, uint32 version, uint64 tensors, little-endian.

    Source: the GGUF specification of ggml, docs/gguf.md.
    """
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        return 0
    version, tensors, _ = struct.unpack("<IQQ", head[4:])
    return int(tensors) if version >= 2 else 0
