"""Which kernel serves the packed attention of a run: by name, or the faster on the run's own shapes.

varlen proves itself first: output and gradients on random states must equal those of sdpa, as near as 16-bit rounding
allows, in a sliding window too where the model has one. Where it cannot run, fails or differs it is passed over, and
the run says why.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from mathgrpo.errors import first_line
from mathgrpo.hardware.cuda_care import pass_on
from mathgrpo.models.policy import Policy, base_model
from mathgrpo.models.shape import head_shape, layer_value
from mathgrpo.update.attention.packed import AttentionKernel, PackedLayout, PaddedRows
from mathgrpo.update.attention.varlen import varlen_obstacle

# Shape legend: T packed rows, H query heads, K key-value heads, D head size.

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest difference of an output or gradient from sdpa's, as a share of its norm, that rounding explains."""
REPEATS = 5
"""Timed passes of a kernel, after some that are not timed."""


class AttentionChoice(NamedTuple):
    """The kernel of a run, and why this one, for the run's log: "" where there was nothing to choose."""

    kernel: AttentionKernel
    reason: str


LayoutOf = Callable[[AttentionKernel], tuple[PackedLayout, int]]
"""Kernel -> (layout of one micro-batch of the run, its rows without padding)."""
_chosen: dict[tuple[Any, ...], AttentionChoice] = {}


def choose_attention(policy: Policy, asked: Literal["auto", "sdpa", "varlen"], layout_of: LayoutOf) -> AttentionChoice:
    """Return the kernel for a policy's packed attention; remembered for the model's shape, device and precision.

    On a CPU it is always sdpa. "auto" takes the faster one.
    """
    device, dtype = torch.device(policy.device), policy.compute_dtype
    if asked == "sdpa" or (asked == "auto" and device.type == "cpu"):
        return AttentionChoice("sdpa", "")
    config = base_model(policy.model).config.get_text_config()
    shape, window = head_shape(config), layer_value(config, "sliding_window")
    key = (str(device), dtype, shape, window, asked)
    if key not in _chosen:
        _chosen[key] = _varlen_or_sdpa(device, dtype, shape, layout_of, named=asked == "varlen", window=window)
    return _chosen[key]


def _varlen_or_sdpa(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], layout_of: LayoutOf, *, named: bool,
    window: int | None = None,
) -> AttentionChoice:  # fmt: skip
    """Return varlen where it proves itself and, unless it is named, is the faster one."""
    why = varlen_obstacle(device, dtype)
    if not why:
        trial, (varlen, _) = Trial(shape, device, dtype, *layout_of("sdpa")), layout_of("varlen")
        # A window that no text reaches yet is tried with a shorter one: later texts may be longer.
        windows = (None,) if window is None else (None, min(window, max(1, varlen.longest // 2)))
        why = next(filter(None, (trial.obstacle(varlen, each) for each in windows)), "")
    if why:
        return AttentionChoice("sdpa", f"update attention sdpa (varlen not used: {why})")
    if named:
        return AttentionChoice("varlen", "update attention varlen")
    seconds: dict[AttentionKernel, float] = {"varlen": trial.seconds(varlen), "sdpa": trial.seconds(trial.plain)}
    best = min(seconds, key=lambda kernel: seconds[kernel])
    times = ", ".join(f"{kernel} {1e3 * value:.2f} ms a layer" for kernel, value in seconds.items())
    return AttentionChoice(best, f"update attention {best} ({times})")


class Trial:
    """Random states through a layer's packed attention, forward and backward, against sdpa."""

    def __init__(
        self, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, plain: PackedLayout, num_rows: int
    ) -> None:
        """shape: (H, K, D). plain: the layout for sdpa. num_rows: rows that count."""
        heads, key_heads, size = shape
        assert isinstance(plain, PaddedRows)
        rows = max(num_rows, len(plain.slots))
        generator = torch.Generator(device=device).manual_seed(0)
        self.plain, self.num_rows, self.dtype = plain, num_rows, dtype
        self.states = tuple(
            torch.randn(rows, n, size, generator=generator, device=device, dtype=dtype).requires_grad_()
            for n in (heads, key_heads, key_heads)
        )
        self.seed = torch.randn(num_rows, heads, size, generator=generator, device=device, dtype=dtype)

    def obstacle(self, layout: PackedLayout, window: int | None = None) -> str:
        """Return why varlen's layout does not serve, or "" when it computes what sdpa computes.

        It can fail in any way of its own on a device it does not know, so every exception counts as "does not
        serve"; a lack of memory is not about the kernel and passes through.
        """
        try:
            found = self._pass(layout, window)
        except Exception as error:
            pass_on(error, "update attention varlen", "run.engine=plain")
            return f"{type(error).__name__}: {first_line(error)}"
        wanted = self._pass(self.plain, window)
        pairs = zip(found, wanted, strict=True)
        # The tensor's max and this comparison let NaN fail.
        difference = float(torch.stack([(a.float() - b.float()).norm() / b.float().norm() for a, b in pairs]).max())
        where = "" if window is None else f" in a window of {window}"
        served = difference <= TOLERANCE.get(self.dtype, 1e-4)
        return "" if served else f"it differs from sdpa by {difference:.1g}{where}"

    def seconds(self, layout: PackedLayout) -> float:
        """Return the mean time of a forward and backward pass, on a device that is waited for."""
        timer = Timer("attend()", globals={"attend": partial(self._pass, layout)})
        return float(timer.timeit(REPEATS).mean)

    def _pass(self, layout: PackedLayout, window: int | None = None) -> list[Tensor]:
        with torch.enable_grad():
            query, key, value = self.states
            output = layout.attend(query, key, value, None, window)[: self.num_rows]
            return [output.detach(), *torch.autograd.grad(output, self.states, self.seed)]
