"""The files of an export: written whole, fingerprinted, packed, and never more than was meant."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from mathgrpo.errors import UserError, first_line
from mathgrpo.files import to_json, write_atomically, written_whole

ALLOWED = (
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors",
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "chat_template.jinja", "chat_template.json", "export.json", "README.md", "curves.png",
)  # fmt: skip
"""Names of files that are exported, and go to the hub. Optimizer state, rollouts, metrics and logs are none of them."""
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 22


def require_allowed(folder: Path) -> list[Path]:
    """Return the files of a folder that is to leave this machine, by name.

    Raises: UserError when there is one that an export never has: it is not left out in silence.
    """
    files, meant = sorted(path for path in folder.rglob("*") if not path.is_dir()), exported_files(folder)
    strange = [path for path in files if path.is_symlink() or path not in meant]
    if strange:
        raise UserError(
            f"{strange[0]}: is no file of an exported model, so nothing is packed or uploaded; remove it and try again"
        )
    return files


def exported_files(folder: Path) -> list[Path]:
    """Return those files of a folder that an export has, by name, and none of its subfolders."""
    allowed = (path for path in folder.iterdir() if any(fnmatch.fnmatchcase(path.name, name) for name in ALLOWED))
    return sorted(path for path in allowed if path.is_file())


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write export.json, with the sizes and hashes of the files that are there beside it in the record."""
    record["files"] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            found = {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        record["files"][path.name] = found
    write_atomically(folder / "export.json", to_json(record, indent=1) + "\n")


def fingerprints(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return name -> hash of a tensor's precision, shape and bytes."""
    found = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        hashed = hashlib.sha256(f"{values.dtype}{tuple(values.shape)}".encode())
        hashed.update(values.reshape(-1).view(torch.uint8).numpy().data)
        found[name] = hashed.hexdigest()
    return found


def require_intact(folder: Path, expected: Mapping[str, str]) -> int:
    """Return how many tensors the safetensors files of a folder hold, each equal bit for bit to what was to be written.

    expected: `fingerprints` of the model in memory; tied tensors are written once, under one of their names.
    Raises: UserError when one differs or is missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    written: dict[str, str] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            written |= fingerprints(load_file(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"export: {path.name} cannot be read back ({error}); nothing was exported") from error
    meant = set(expected.values())  # some architectures write their tensors under other names than they hold them
    wrong = [name for name, value in written.items() if expected.get(name, value) != value or value not in meant]
    missing = meant - set(written.values())
    if wrong or missing:
        names = wrong or [name for name, value in expected.items() if value in missing]
        raise UserError(
            f"export: {names[0]} is not on disk as it is in memory ({len(names)} tensor(s) of {len(expected)}); "
            "nothing was exported; check the disk and try again"
        )
    return len(written)


def write_zip(folder: Path, target: Path, root: str) -> None:
    """Write the files of a folder as one zip below a folder `root`: the same bytes for the same files, always.

    Raises: UserError for a file that no export has.
    """
    files = require_allowed(folder)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
        for path in files:
            entry = zipfile.ZipInfo(f"{root}/{path.name}", _EPOCH)
            entry.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as into:
                shutil.copyfileobj(source, into, _CHUNK)
    with zipfile.ZipFile(target) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise UserError(f"export: {bad} in {target.name} cannot be read back; check the disk and try again")


@contextmanager
def export_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which appears under the target's name only when it is complete.

    Raises: UserError when the target holds something already, or the disk is full.
    """
    from safetensors import SafetensorError

    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"--to {target}: exists already; remove it or choose another folder")
    try:
        with written_whole(target) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"--to {target}: cannot be written ({reason}); free the disk or choose another") from error


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
    with suppress(OSError, struct.error), path.open("rb") as file:
        magic, version, tensors = struct.unpack("<4sIQ", file.read(16))
        return int(tensors) if magic == b"GGUF" and version >= 2 else 0
    return 0
