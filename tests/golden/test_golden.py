"""The golden runs, taken again with the present code: see record.py.

On the machine that recorded them (processor, torch, C compiler): bit for bit, in every metric, rollout, evaluation and
weight. Elsewhere the last bits differ, and a token may, from which on it is another run of the same quality. Compared
is then (with AVX2 for AVX-512 on one machine, and with the torch decoder, every text was the same, the first step's
metrics 5e-5 apart, norms 2e-6):

- step 1, drawn by the same weights. The same texts: its metrics to 2e-4 of their size (those of rounding errors, under
  sampling/, to 1e-4 in all). Other texts: reward and accuracy to 0.1.
- evaluations before training: accuracies to 2 problems of those asked.
- means over all steps: reward, its parts and accuracy to 0.1.
- evaluations after training: accuracies to 0.3.
- L2 norms of the final weights: to 1e-3 of their size; of an adapter, half of which starts at 0, to a fifth.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pytest

from golden.record import CASES, ROOT, Golden, exact_differences, load_golden, machine, run_case

SLOW = ("adapter", "processes")


@pytest.mark.usefixtures("generator")
@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] if c in SLOW else []) for c in CASES])
def test_the_run_is_the_recorded_one(case: str) -> None:
    golden, now = load_golden(case), run_case(case, ROOT)
    same_machine = golden["machine"] == machine()
    differences = exact_differences(golden, now) if same_machine else near_differences(golden, now)
    kind = "to the bit" if same_machine else "within tolerances"
    assert not differences, f"{len(differences)} differences {kind}:\n" + "\n".join(differences[:30])


@pytest.mark.parametrize("case", CASES)
def test_a_difference_is_told_by_its_place(case: str) -> None:
    golden, now = load_golden(case), load_golden(case)
    now["steps"][1]["metrics"]["loss"] += 1e-12
    del now["steps"][2]["metrics"]["reward"]
    now["steps"][3] = now["steps"][3] | {"rollouts": "others"}
    now["steps"][4]["metrics"]["a new one"] = 1.0
    now["weights"]["sha256"] = "others"
    told = exact_differences(golden, now)
    assert [line.partition(": golden")[0] for line in told] == [
        f"{case}: step 2: loss",
        f"{case}: step 3: reward",
        f"{case}: step 4: the rollouts are others, with the same texts",
        f"{case}: the final weights are others",
    ]
    assert near_differences(golden, golden) == exact_differences(golden, golden) == []


def near_differences(golden: Golden, now: Golden) -> list[str]:
    """Return what is further off than another processor explains."""
    case, was, got = golden["case"], golden["steps"], now["steps"]
    if len(was) != len(got):
        return [f"{case}: {len(got)} steps, golden {len(was)}"]
    found, first = [], was[0]["metrics"]
    if was[0]["texts"] == got[0]["texts"]:
        bounds = {name: 1e-4 if name.startswith("sampling/") else 2e-4 * abs(v) + 1e-6 for name, v in first.items()}
    else:
        bounds = {name: 0.1 for name in first if name in ("reward", "accuracy")}
    found += _off(f"{case}: step 1", first, got[0]["metrics"], bounds)
    means = {name: fmean(step["metrics"][name] for step in was) for name in first if _is_reward(name)}
    now_means = {name: fmean(step["metrics"].get(name, float("nan")) for step in got) for name in means}
    found += _off(f"{case}: mean over all steps", means, now_means, dict.fromkeys(means, 0.1))
    for name, values in golden["evaluations"].items():
        bound = 2.001 / values["problems"] if name.startswith("before") else 0.3
        accuracies = [key for key in values if key in ("accuracy", "sampled/accuracy")]
        now_values = now["evaluations"].get(name, {})
        found += _off(f"{case}: evaluation {name}", values, now_values, dict.fromkeys(accuracies, bound))
    norms = golden["weights"]["norms"]
    share = {name: 0.2 if "lora" in name else 1e-3 for name in norms}
    bounds = {name: share[name] * norm for name, norm in norms.items()}
    return found + _off(f"{case}: norm of final weights", norms, now["weights"]["norms"], bounds)


def _is_reward(name: str) -> bool:
    return (
        name in ("reward", "accuracy") or name.startswith("reward/") or (name.endswith("/mean") and "rewards/" in name)
    )


def _off(where: str, was: Mapping[str, Any], now: Mapping[str, Any], bounds: Mapping[str, float]) -> list[str]:
    return [
        f"{where}: {name}: golden {was[name]!r}, now {now.get(name, 'missing')!r}, bound {bound:.2g}"
        for name, bound in bounds.items()
        if not (name in now and abs(now[name] - was[name]) <= bound)
    ]
