"""Which kernel serves the packed attention of a run: by name, or the fastest on the run's own shapes.

A kernel proves itself first: output and gradients on random states must equal those of sdpa, as near as 16-bit
rounding allows. One that cannot run, fails or differs is passed over, and the run says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mathgrpo.config.machinery import Machinery
from mathgrpo.errors import first_line
from mathgrpo.hardware.cuda_care import pass_on
from mathgrpo.models.policy import Policy, base_model
from mathgrpo.models.shape import head_shape
from mathgrpo.update.attention.device_kernels import flex_obstacle, varlen_obstacle
from mathgrpo.update.attention.packed import AttentionKernel, PackedLayout

# Shape legend: T packed rows, H query heads, K key-value heads, D head size.

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest difference of an output or gradient from sdpa's, as a share of its norm, that rounding explains."""
REPEATS = 5
"""Timed passes of a kernel, after one that is not timed; the fastest counts."""


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The kernel of a run.

    Attributes:
        kernel: "sdpa", "varlen" or "flex".
        reason: why this one, for the run's log; "" where there was nothing to choose.
    """

    kernel: AttentionKernel
    reason: str


_chosen: dict[tuple[Any, ...], AttentionChoice] = {}


def choose_attention(
    policy: Policy, machinery: Machinery, layout_of: Callable[[AttentionKernel], tuple[PackedLayout, int]]
) -> AttentionChoice:
    """Return the kernel for a policy's packed attention; remembered for the model's shape, device and precision.

    On a CPU it is always sdpa. "auto" measures sdpa and varlen, and flex where layers are compiled anyway: it has to
    be compiled first, for seconds.

    layout_of: kernel -> (layout of one micro-batch of the run, its rows without padding).
    """
    device, dtype = torch.device(policy.device), policy.compute_dtype
    shape = head_shape(base_model(policy.model).config.get_text_config())
    asked = machinery.attention
    if asked == "sdpa" or (asked == "auto" and device.type == "cpu"):
        return AttentionChoice("sdpa", "")
    candidates: tuple[AttentionKernel, ...] = (
        (asked,) if asked != "auto" else ("varlen", "flex") if machinery.compile == "on" else ("varlen",)
    )
    key = (str(device), dtype, shape, candidates, asked)
    if key not in _chosen:
        _chosen[key] = _fastest(candidates, device, dtype, shape, layout_of, named=asked != "auto")
    return _chosen[key]


def _fastest(
    candidates: tuple[AttentionKernel, ...],
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    layout_of: Callable[[AttentionKernel], tuple[PackedLayout, int]],
    *,
    named: bool,
) -> AttentionChoice:
    """Return the fastest of sdpa and the candidates that prove themselves; a named one need only prove itself."""
    obstacles = {kernel: _obstacle(kernel, device, dtype) for kernel in candidates}
    able = [kernel for kernel in candidates if not obstacles[kernel]]
    notes = [f"{kernel} not used: {why}" for kernel, why in obstacles.items() if why]
    if not able:
        return AttentionChoice("sdpa", _sentence("sdpa", notes))
    trial = Trial(shape, device, dtype, *layout_of("sdpa"))
    seconds: dict[AttentionKernel, float] = {}
    for kernel in able:
        why = trial.obstacle(layout_of(kernel)[0], kernel)
        if why:
            notes.append(f"{kernel} not used: {why}")
        else:
            seconds[kernel] = 0.0 if named else trial.seconds(layout_of(kernel)[0])
    if not seconds:
        return AttentionChoice("sdpa", _sentence("sdpa", notes))
    if not named:
        seconds["sdpa"] = trial.seconds(trial.plain)
        notes.append(", ".join(f"{kernel} {1e3 * value:.2f} ms a layer" for kernel, value in seconds.items()))
    best = min(seconds, key=lambda kernel: seconds[kernel])
    return AttentionChoice(best, _sentence(best, notes))


class Trial:
    """Random states through a layer's packed attention, forward and backward, against sdpa."""

    def __init__(
        self, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, plain: PackedLayout, num_rows: int
    ) -> None:
        """shape: (H, K, D). plain: the layout for sdpa. num_rows: rows that count."""
        heads, key_heads, size = shape
        rows = max(num_rows, _rows_of(plain))
        generator = torch.Generator(device=device).manual_seed(0)
        self.plain, self.num_rows, self.dtype, self.device = plain, num_rows, dtype, device
        self.states = tuple(
            torch.randn(rows, n, size, generator=generator, device=device, dtype=dtype).requires_grad_()
            for n in (heads, key_heads, key_heads)
        )
        self.seed = torch.randn(num_rows, heads, size, generator=generator, device=device, dtype=dtype)

    def obstacle(self, layout: PackedLayout, kernel: AttentionKernel) -> str:
        """Return why a kernel's layout does not serve, or "" when it computes what sdpa computes.

        A kernel can fail in any way of its own on a device it does not know, so every exception counts as "does not
        serve"; a lack of memory is not about the kernel and passes through.
        """
        try:
            found = self._pass(layout)
        except Exception as error:
            pass_on(error, f"update attention {kernel}", "run.engine=plain")
            return f"{type(error).__name__}: {first_line(error)}"
        wanted = self._pass(self.plain)
        pairs = zip(found, wanted, strict=True)
        # The tensor's max and this comparison let NaN fail.
        difference = float(torch.stack([(a.float() - b.float()).norm() / b.float().norm() for a, b in pairs]).max())
        return "" if difference <= TOLERANCE.get(self.dtype, 1e-4) else f"it differs from sdpa by {difference:.1g}"

    def seconds(self, layout: PackedLayout) -> float:
        """Return the time of the fastest forward and backward pass."""
        times = []
        for _ in range(REPEATS + 1):
            self._wait()
            started = time.perf_counter()
            self._pass(layout)
            self._wait()
            times.append(time.perf_counter() - started)
        return min(times[1:])

    def _pass(self, layout: PackedLayout) -> list[Tensor]:
        with torch.enable_grad():
            query, key, value = self.states
            output = layout.form.attend(query, key, value, None)[: self.num_rows]
            return [output.detach(), *torch.autograd.grad(output, self.states, self.seed)]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _obstacle(kernel: AttentionKernel, device: torch.device, dtype: torch.dtype) -> str:
    return varlen_obstacle(device, dtype) if kernel == "varlen" else flex_obstacle(device)


def _rows_of(layout: PackedLayout) -> int:
    """Return the packed rows of a layout for sdpa, padding included."""
    slots: Tensor = layout.form.slots  # type: ignore[attr-defined]
    return len(slots)


def _sentence(kernel: Literal["sdpa", "varlen", "flex"], notes: list[str]) -> str:
    return f"update attention {kernel}" + (f" ({'; '.join(notes)})" if notes else "")
