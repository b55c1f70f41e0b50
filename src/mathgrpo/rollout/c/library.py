"""The compiled decoder as Python sees it: the structures and functions of `decoder.c`."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache

import torch

from mathgrpo.rollout.c.build_kernels import KernelError, build, discard


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
