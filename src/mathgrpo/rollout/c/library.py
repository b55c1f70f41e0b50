"""The compiled decoder as Python sees it: the structures and functions of `decoder.c`."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from mathgrpo.cache import cache_folder
from mathgrpo.hardware.processor import c_compiler, cpu_facts, no_compiler
from mathgrpo.models import Policy
from mathgrpo.models.known_modules import why_not_served
from mathgrpo.models.module_weights import plain_module


class Matrix(ctypes.Structure):
    """`matrix` of layers.h: y = W x + b, W in panels."""

    _fields_ = (("panels", c_void_p), ("bias", c_void_p), ("outputs", c_int64), ("inputs", c_int64))


class Layer(ctypes.Structure):
    """`layer` of layers.h: one transformer block."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("qkv", Matrix),
        ("out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
    )


class Model(ctypes.Structure):
    """`model` of layers.h."""

    _fields_ = (
        ("num_layers", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("ffn", c_int64),
        ("vocab", c_int64),
        ("eps", c_double),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("head", Matrix),
        ("layers", POINTER(Layer)),
    )


@dataclass(frozen=True, slots=True)
class Kernels:
    """A loaded library and its layout.

    Attributes:
        cpu: the instructions it was compiled for, in words.
        columns: columns of a weight panel (NR).
        lanes: floats in a vector (VL).
        element: the type a panel's numbers have.
        pair: numbers of a column that lie next to each other.
    """

    library: ctypes.CDLL
    cpu: str
    columns: int
    lanes: int
    element: torch.dtype
    pair: int


def why_not_compiled(policy: Policy) -> str:
    """Return why the compiled decoder does not serve a policy here, or "" when it does; compiles it when it must."""
    obstacle = why_not_served(policy.causal_lm)
    if obstacle:
        return obstacle
    if policy.device != "cpu":
        return f"the policy is on {policy.device}"
    if policy.compute_dtype not in (torch.float32, torch.bfloat16):
        return f"it does not compute in {policy.compute_dtype}"
    body = policy.causal_lm.model
    dtype = plain_module(body.embed_tokens).weight.dtype
    if dtype != torch.float32:
        return f"the weights are {dtype}"
    config = policy.causal_lm.config
    if config.hidden_size % 2 or config.intermediate_size % 2 or body.layers[0].self_attn.head_dim % 2:
        return "a width is odd"
    try:
        load_kernels(policy.compute_dtype)
    except KernelError as error:
        return str(error)
    return ""


@cache
def load_kernels(dtype: torch.dtype) -> Kernels:
    """Return the compiled decoder for a precision, float32 or bfloat16.

    Raises: KernelError when it cannot be had here.
    """
    path = build(dtype)
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        discard(path)
        try:
            library = ctypes.CDLL(str(build(dtype)))
        except OSError as error:
            raise KernelError(f"the compiled decoder does not load ({error})") from None
    _declare(library)
    layout = (c_int64 * 4)()
    library.mg_layout(layout)
    columns, lanes, _, pair = layout
    return Kernels(library, library.mg_name().decode(), columns, lanes, dtype, pair)


def _declare(library: ctypes.CDLL) -> None:
    session, pointer = c_void_p, c_void_p
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "mg_open": (session, [pointer, c_int64, c_int64, c_int64]),
        "mg_close": (None, [session]),
        "mg_prefill": (c_int, [session, c_int64, pointer, pointer, pointer, pointer]),
        "mg_admit": (None, [session, c_int64, pointer]),
        "mg_keep": (None, [session, c_int64, pointer]),
        "mg_release": (None, [session, c_int64]),
        "mg_advance": (
            c_int64,
            [session, pointer, pointer, pointer, pointer, c_int64, pointer, c_int64, pointer, pointer, pointer],
        ),
        "mg_pack": (None, [pointer, c_int64, c_int64, pointer, c_int64, c_int64, c_int64, c_int64]),
        "mg_layout": (None, [pointer]),
        "mg_name": (ctypes.c_char_p, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


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
