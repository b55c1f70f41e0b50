"""The precision a CPU run computes in: measured once, kept, named in the environment; the run keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mathgrpo.config import Recipe
from mathgrpo.errors import UserError
from mathgrpo.hardware import precision
from mathgrpo.hardware.precision import ENVIRONMENT, cpu_precision, measure_ratio
from mathgrpo.training.prepare import settle_precision


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("MATHGRPO_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("ratio", "dtype"), [(0.4, "float32"), (1.49, "float32"), (1.51, "bfloat16"), (9.0, "bfloat16")]
)
def test_bfloat16_only_where_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch, ratio: float, dtype: str) -> None:
    monkeypatch.setattr(precision, "measure_ratio", lambda: ratio)
    assert cpu_precision().dtype == dtype
    assert dtype in cpu_precision().reason


def test_the_decision_is_kept_and_a_damaged_file_is_replaced(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    ratios = iter([2.0, 0.5])
    monkeypatch.setattr(precision, "measure_ratio", lambda: next(ratios))
    assert cpu_precision() == cpu_precision() and cpu_precision().dtype == "bfloat16"
    (path,) = (own_cache / "precision").iterdir()
    assert json.loads(path.read_text())["ratio"] == 2.0
    path.write_text('{"dtype": "float16"}')
    assert cpu_precision().dtype == "float32" and cpu_precision().ratio == 0.5


def test_the_environment_names_it_and_a_wrong_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measure_ratio", lambda: pytest.fail("measured although it was named"))
    monkeypatch.setenv(ENVIRONMENT, "bfloat16")
    assert cpu_precision().dtype == "bfloat16" and ENVIRONMENT in cpu_precision().reason
    monkeypatch.setenv(ENVIRONMENT, "float16")
    with pytest.raises(UserError, match="MATHGRPO_CPU_DTYPE=float16: allowed are float32 and bfloat16"):
        cpu_precision()


def test_the_measurement_is_a_sensible_ratio() -> None:
    assert 0.01 < measure_ratio() < 100


def test_a_recipe_settles_only_auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "bfloat16")
    settled, why = settle_precision(Recipe(), "cpu")
    assert settled.model.dtype == "bfloat16" and why
    assert settled.model_copy(update={"model": Recipe().model}) == Recipe()
    monkeypatch.setenv(ENVIRONMENT, "float32")
    assert settle_precision(settled, "cpu") == (settled, "")  # what a resumed run reads from its own config.toml
    assert settle_precision(Recipe(), "cuda") == (Recipe(), "")
