"""Compiles the decoder with the machine's own C compiler, once for each compiler, CPU and version of the sources.

The library lies in the cache folder beside its checksum: a file that was cut short is built again, not loaded (loading
one ends the process). Two processes that build at once write files of their own names, and each rename is atomic.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from mathgrpo.cache import cache_folder
from mathgrpo.hardware.processor import c_compiler, cpu_facts, no_compiler

_SOURCES = Path(__file__).parent
_FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC")
_TIMEOUT_S = 120.0


class KernelError(Exception):
    """There is no compiled decoder here; the message is one line for the run's log."""


def build(dtype: torch.dtype) -> Path:
    """Return the decoder's shared library for a precision (float32 or bfloat16), compiled now if it never was.

    The compiler is the one that CC names, else cc, gcc or clang.

    Raises: KernelError when there is no compiler or it refuses.
    """
    library = library_path(dtype)
    if not _is_whole(library):
        _compile(_compiler(), _defines(dtype), library)
    return library


def library_path(dtype: torch.dtype) -> Path:
    """Return where the library lies once it is built: its name is the hash of all that it is made from.

    Raises: KernelError when there is no compiler.
    """
    made_from = (_sources(), _version(_compiler()), _cpu(), *_FLAGS, *_defines(dtype))
    key = hashlib.sha256("\n".join(made_from).encode()).hexdigest()
    return cache_folder() / "kernels" / f"decoder-{'bf16' if _defines(dtype) else 'fp32'}-{key[:16]}.so"


def _defines(dtype: torch.dtype) -> tuple[str, ...]:
    return ("-DBF16",) if dtype == torch.bfloat16 else ()


def discard(library: Path) -> None:
    """Remove a built library, so that the next `build` compiles it again."""
    _checksum(library).unlink(missing_ok=True)
    library.unlink(missing_ok=True)


def _compile(compiler: str, define: tuple[str, ...], library: Path) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            target = Path(folder) / library.name
            _run_compiler(compiler, define, target)
            checksum = Path(folder) / "checksum"
            checksum.write_text(digest(target))
            target.replace(library)
            checksum.replace(_checksum(library))
    except OSError as error:
        raise KernelError(f"{library.parent} cannot be written ({error.strerror})") from None


def _run_compiler(compiler: str, define: tuple[str, ...], target: Path) -> None:
    """Compile for this very CPU, with threads where the compiler has OpenMP."""
    source = str(_SOURCES / "decoder.c")
    first = ""
    for native in ("-march=native", "-mcpu=native"):
        for threads in (("-fopenmp",), ()):
            command = [*compiler.split(), *_FLAGS, native, *threads, *define, source, "-o", str(target), "-lm"]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise KernelError(f"{compiler} did not run ({type(error).__name__})") from None
            if result.returncode == 0:
                return
            first = first or _first_error(result.stderr)
    raise KernelError(f"{compiler} refused: {first}")


def _first_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if "error" in line] or stderr.splitlines() or ["no message"]
    return lines[0].rsplit("error:", 1)[-1].replace("#error", "").strip()[:200]


def _compiler() -> str:
    compiler = c_compiler()
    if not compiler:
        raise KernelError(f"{no_compiler()} on this machine")
    return compiler


@cache
def _version(compiler: str) -> str:
    try:
        result = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{compiler} did not run ({type(error).__name__})") from None
    return f"{compiler} {shutil.which(compiler.split()[0])} {result.stdout}"


@cache
def _cpu() -> str:
    """What -march=native depends on: a cache folder may be shared between machines."""
    facts = cpu_facts()
    marks = ("flags", "Features", "model", "model name", "cpu family", "CPU part")
    known = (f"{mark}: {facts[mark]}" for mark in marks if mark in facts)
    return "\n".join([platform.machine(), platform.processor(), platform.system(), *known])


@cache
def _sources() -> str:
    return "\n".join(path.read_text() for path in sorted(_SOURCES.glob("*.[ch]")))


def _checksum(library: Path) -> Path:
    return library.with_suffix(".sha256")


def digest(path: Path) -> str:
    """Return the checksum that lies beside a whole library."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_whole(library: Path) -> bool:
    try:
        return _checksum(library).read_text() == digest(library)
    except OSError:
        return False
