"""The tables of docs/hardware.md, from the memory plan and the data sheets: python tests/docs/hardware_table.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import LoraSection
from mathgrpo.hardware.datasheet import data_sheet
from mathgrpo.hardware.flops import (
    GroupLengths,
    decode_work,
    prefill_work,
    training_flops,
    update_size,
)
from mathgrpo.hardware.roofline import Roofline, ideal_seconds
from mathgrpo.models.lora import attach_adapter
from mathgrpo.models.shape import ModelSizes, model_shape, model_sizes
from mathgrpo.training.memory_plan import MemoryPlan, plan_memory

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hardware.md"
GB = 10**9
PROMPTS, GROUP, LONGEST_PROMPT, MAX_NEW_TOKENS = 16, 8, 256, 512
"""The step that the tables are made for; memory counts every completion at its limit."""
MEAN_PROMPT, MEAN_COMPLETION = 150, 250
"""Lengths that the times are made for."""
ROLLOUT_SHARE, UPDATE_MFU = 0.30, 0.35
"""Shares of the data sheet that an estimate assumes: of the roofline in the rollout, of the peak in the update."""

Method = Literal["all weights", "LoRA", "QLoRA", "QLoRA, small"]
"""QLoRA, small: decoded as they are, so that the layers' matrices are there in 4 bits only."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device of the tables. num_bytes: what its driver reports, about; bfloat16: whether it has units for it."""

    label: str
    sheet: str
    num_bytes: int
    bfloat16: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """The precision that runs there are computed in."""
        return torch.bfloat16 if self.bfloat16 else torch.float32


GPUS = (
    Gpu("T4, 16 GB", "T4", int(15.6 * GB), bfloat16=False),
    Gpu("RTX 4090, 24 GB", "RTX 4090", 24 * GB),
    Gpu("A100, 40 GB", "A100", 40 * GB),
    Gpu("H100, 80 GB", "H100", 80 * GB),
    Gpu("H200, 141 GB", "H200", 141 * GB),
)
# Sizes of the published configs: hidden, feed-forward, layers, heads, key heads, vocabulary, tied head.
QWEN = {
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151_936, True),
    "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 151_936, True),
    "Qwen2.5-3B": (2048, 11008, 36, 16, 2, 151_936, True),
    "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152_064, False),
}
ROWS: tuple[tuple[str, Method], ...] = (
    ("GPT-2 124M", "all weights"),
    ("Qwen2.5-0.5B", "all weights"),
    ("Qwen2.5-1.5B", "all weights"),
    ("Qwen2.5-1.5B", "LoRA"),
    ("Qwen2.5-3B", "all weights"),
    ("Qwen2.5-3B", "LoRA"),
    ("Qwen2.5-3B", "QLoRA"),
    ("Qwen2.5-3B", "QLoRA, small"),
    ("Qwen2.5-7B", "LoRA"),
    ("Qwen2.5-7B", "QLoRA"),
    ("Qwen2.5-7B", "QLoRA, small"),
)


@cache
def model_of(name: str, method: Method) -> Any:
    """Return a model of this shape on the meta device, which takes no memory."""
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

    config: Any = GPT2Config()
    if name in QWEN:
        hidden, feed_forward, layers, heads, key_heads, vocabulary, tied = QWEN[name]
        config = Qwen2Config(
            hidden_size=hidden, intermediate_size=feed_forward, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=key_heads, vocab_size=vocabulary, tie_word_embeddings=tied,
        )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        return model if method == "all weights" else attach_adapter(model, LoraSection())


def recipe_of(method: Method) -> Recipe:
    """Return the recipe of the tables' step."""
    rollout: dict[str, Any] = {"prompts_per_step": PROMPTS, "group_size": GROUP, "max_new_tokens": MAX_NEW_TOKENS}
    model: dict[str, Any] = {} if method == "all weights" else {"lora": {}}
    if method.startswith("QLoRA"):
        model["quantization"] = "nf4"
    return validated(Recipe, {"rollout": rollout, "model": model})


def sizes_of(name: str, method: Method) -> ModelSizes:
    """Return a model's sizes under a method."""
    sizes = model_sizes(model_of(name, method))
    assert sizes is not None
    if not method.startswith("QLoRA"):
        return sizes
    base = model_sizes(model_of(name, "all weights"))
    assert base is not None
    return replace(sizes, quantized=base.matrices)


def memory_of(name: str, method: Method, gpu: Gpu) -> MemoryPlan:
    """Return the memory plan of the tables' step on a device."""
    return plan_memory(
        sizes_of(name, method), recipe_of(method), compute_bytes=gpu.dtype.itemsize, longest_prompt=LONGEST_PROMPT,
        device=gpu.num_bytes, kind="cuda", machinery=Machinery(dequantize="on" if method == "QLoRA" else "off"),
    )  # fmt: skip


def memory_cell(plan: MemoryPlan) -> str:
    """Return what a plan says, in a cell: the token budget, or that it does not fit."""
    if not plan.fits:
        return "no"
    return f"{plan.token_budget:,}{' r' if plan.recompute else ''}"


def step_seconds(name: str, method: Method, gpu: Gpu) -> tuple[float, float]:
    """Return the least seconds of the tables' step by the data sheet, and an estimate with the shares assumed."""
    sheet = data_sheet(gpu.sheet)
    assert sheet is not None
    flops = sheet.flops_per_s[gpu.dtype]
    shape = model_shape(model_of(name, method), gpu.dtype.itemsize)
    groups = [GroupLengths(MEAN_PROMPT, (MEAN_COMPLETION,) * GROUP)] * PROMPTS
    roofline = Roofline(gpu.label, ((1 << 40, sheet.bytes_per_s),), flops, 0.0)
    rollout, _ = ideal_seconds(roofline, [prefill_work(shape, groups), *decode_work(shape, groups)])
    update = training_flops(shape, *update_size(groups)) / flops
    return rollout + update, rollout / ROLLOUT_SHARE + update / UPDATE_MFU


def step_flops(name: str, method: Method) -> int:
    """Return the useful FLOPs of the tables' step, rollout and update."""
    shape = model_shape(model_of(name, method), 4)
    groups = [GroupLengths(MEAN_PROMPT, (MEAN_COMPLETION,) * GROUP)] * PROMPTS
    rollout = sum(work.flops for work in (prefill_work(shape, groups), *decode_work(shape, groups)))
    return rollout + training_flops(shape, *update_size(groups))


def memory_table() -> list[str]:
    """Return the table of memory, line by line."""
    head = ["model", "trains", "held, bfloat16", *(gpu.label for gpu in GPUS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, method in ROWS:
        plans = [memory_of(name, method, gpu) for gpu in GPUS]
        held = f"{plans[-1].resident / GB:.1f} GB"
        lines.append("| " + " | ".join([name, method, held, *map(memory_cell, plans)]) + " |")
    return lines


def time_table() -> list[str]:
    """Return the table of times, line by line."""
    head = ["model", "trains", *(gpu.label for gpu in GPUS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, method in ROWS:
        if method == "QLoRA, small":  # how much slower, no formula here knows
            continue
        cells = []
        for gpu in GPUS:
            least, likely = step_seconds(name, method, gpu)
            cells.append(f"{least:.2g} / {likely:.2g} s" if memory_of(name, method, gpu).fits else "no")
        lines.append("| " + " | ".join([name, method, *cells]) + " |")
    return lines


def with_tables(text: str) -> str:
    """Return the page with its tables made anew, between their marks."""
    for mark, lines in (("memory", memory_table()), ("time", time_table())):
        pattern = rf"(<!-- {mark}: [^\n]*-->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda found, lines=lines: found[1] + "\n".join(lines) + "\n" + found[2], text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the page needs one <!-- {mark}: ... --> with an <!-- end -->, it has {count}")
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
