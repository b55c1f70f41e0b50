"""docs/hardware.md says what the memory plan and the data sheets say, and its advice follows from its tables."""

from __future__ import annotations

import pytest

from docs.hardware_table import GB, GPUS, PAGE, QWEN, memory_of, sizes_of, step_flops, step_seconds, with_tables
from mathgrpo.config import load_recipe
from mathgrpo.training.memory_plan import plan_memory

TEXT = PAGE.read_text(encoding="utf-8")
T4, RTX, A100, H100, H200 = GPUS


def test_the_tables_are_the_codes() -> None:
    assert with_tables(TEXT) == TEXT, "run: python tests/docs/hardware_table.py"


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="memory"):
        with_tables("# Hardware\n")


def test_the_models_have_their_published_sizes() -> None:
    published = {"Qwen2.5-0.5B": 0.49, "Qwen2.5-1.5B": 1.54, "Qwen2.5-3B": 3.09, "Qwen2.5-7B": 7.61}
    assert set(published) == set(QWEN)
    for name, billions in published.items():
        assert abs(sizes_of(name, "all weights").parameters / 1e9 - billions) < 0.01
    assert sizes_of("GPT-2 124M", "all weights").parameters == 124_439_808


@pytest.mark.parametrize(
    ("name", "method", "gpu", "fits"),
    [
        ("Qwen2.5-0.5B", "all weights", T4, False),
        ("Qwen2.5-1.5B", "LoRA", RTX, True),
        ("Qwen2.5-3B", "QLoRA", RTX, True),
        ("Qwen2.5-1.5B", "all weights", RTX, False),
        ("Qwen2.5-1.5B", "all weights", A100, False),
        ("Qwen2.5-1.5B", "LoRA", A100, True),
        ("Qwen2.5-3B", "LoRA", A100, True),
        ("Qwen2.5-3B", "all weights", H100, True),
        ("Qwen2.5-7B", "LoRA", H100, True),
        ("Qwen2.5-7B", "all weights", H200, False),
    ],
)
def test_the_advice_follows_from_the_plan(name: str, method: str, gpu: object, fits: bool) -> None:
    assert memory_of(name, method, gpu).fits is fits  # type: ignore[arg-type]


def test_the_formulas_of_the_page_are_the_plans() -> None:
    sizes, plan = sizes_of("Qwen2.5-3B", "all weights"), memory_of("Qwen2.5-3B", "all weights", H200)
    assert plan.weights == 4 * sizes.parameters and plan.gradients + plan.optimizer == 12 * sizes.trainable
    assert plan.copies == 4 * sizes.matrices + 2 * sizes.hidden * sizes.vocabulary and plan.reference == 0
    half = memory_of("Qwen2.5-0.5B", "all weights", H200)
    assert abs(half.logits / (3 * GB) - 1) < 0.2, "about 3 GB"


def test_the_first_reference_recipe_can_be_tried_on_a_t4() -> None:
    """With its 4 x 4 completions the plan leaves about a gigabyte, less than it likes to, and refuses nothing."""
    plan = plan_memory(sizes_of("Qwen2.5-0.5B", "all weights"), load_recipe("qwen2.5-0.5b-xml", []), compute_bytes=4,
                       longest_prompt=256, device=T4.num_bytes, kind="cuda")  # fmt: skip
    assert not plan.is_hopeless and 0.5 * GB < T4.num_bytes - plan.total < 0.1 * T4.num_bytes


def test_a_step_on_a_t4_takes_most_of_a_minute() -> None:
    least, likely = step_seconds("Qwen2.5-0.5B", "all weights", T4)
    assert least < likely and 30 < likely < 60


def test_a_step_of_half_a_billion_weights_is_out_of_a_cpus_reach() -> None:
    flops = step_flops("Qwen2.5-0.5B", "all weights")
    assert 1e14 < flops < 2e14 and 20 * 60 < flops / 0.1e12 < 25 * 60, "over 10^14 FLOPs, more than twenty minutes"
