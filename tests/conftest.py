"""Settings for every test: offline, one thread a process, visible skips."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

import pytest

# The tests run in as many processes as there are cores; more threads than cores slow each other tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What a test starts in a process of its own finds the packages that the test finds, and this checkout first.
SOURCE = str(Path(__file__).resolve().parents[1] / "src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (SOURCE, os.environ.get("PYTHONPATH"))))
# Exact comparisons must not depend on which precision this processor is faster in.
os.environ.setdefault("MATHGRPO_CPU_DTYPE", "float32")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Triton decides at its import whether kernels run in its interpreter: they do where there is no NVIDIA driver.
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    os.environ.setdefault("TRITON_INTERPRET", "1")

GSM8K = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "gsm8k"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, saying why."""
    no_files = pytest.mark.skip(reason="the GSM8K files (../shared/data/gsm8k) are not beside this repository")
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("shared") and not GSM8K.is_dir():
            item.add_marker(no_files)
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(no_gpu)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def generator() -> None:
    """What draws generated problems: a test that needs it is skipped where it is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        pytest.skip("reasoning-gym is not installed")


@pytest.fixture(scope="session")
def gsm8k_folder() -> Path:
    """The folder with the official train.jsonl and test.jsonl."""
    return GSM8K
