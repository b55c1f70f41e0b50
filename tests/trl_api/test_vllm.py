"""use_vllm=True: TRL's fields on this package's vLLM engine, against the stand-in of its server."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import pytest
import torch

from mathgrpo import GRPOConfig, GRPOTrainer
from mathgrpo.errors import UserError
from mathgrpo.grpo.importance import Importance
from mathgrpo.rollout.vllm.versions import PYTHON_VARIABLE
from mathgrpo.trl_api.script_setup import vllm_section
from mathgrpo.trl_api.script_task import importance_of
from rollout.test_vllm_engine import saved, tiny_policy
from rollout.vllm_standin import StandIn, fake_python, serving
from trl_api.trainer_cases import length_reward, logs_of, trainer

REAL_PYTHON = os.environ.get(PYTHON_VARIABLE, "")
SHARED: dict[str, Any] = {"use_vllm": True, "max_steps": 2, "vllm_server_timeout": 5.0, "bf16": False}


@pytest.fixture(autouse=True)
def no_vllm_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)


def test_a_server_that_runs_is_used_and_learnt_from(tmp_path: Path) -> None:
    standin = StandIn(saved(tiny_policy(), tmp_path / "served"))
    with serving(standin) as url:
        run = trainer(tmp_path / "out", vllm_mode="server", vllm_server_base_url=url, **SHARED)
        before = [p.detach().clone() for p in run.model.parameters()]
        run.train()
        run.end()
    assert run.engine.name == "vllm" and standin.calls.count("/collective_rpc") >= 2
    assert any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    names = {
        "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "vllm/pushed",
        "sampling/importance_sampling_ratio/min", "sampling/importance_sampling_ratio/mean",
        "sampling/importance_sampling_ratio/max",
    }  # fmt: skip
    for line in logs_of(run):
        assert names <= set(line)
        assert line["sampling/importance_sampling_ratio/min"] == pytest.approx(1.0, abs=2e-3)
        assert line["sampling/importance_sampling_ratio/max"] == pytest.approx(1.0, abs=2e-3)


def test_host_and_port_name_the_server(tmp_path: Path) -> None:
    standin = StandIn(saved(tiny_policy(), tmp_path / "served"))
    with serving(standin) as url:
        port = int(url.rsplit(":", 1)[1])
        run = trainer(tmp_path / "out", vllm_mode="server", vllm_server_host="127.0.0.1", vllm_server_port=port,
                      **(SHARED | {"max_steps": 1}))  # fmt: skip
        run.train()
    assert len(logs_of(run)) == 1
    assert vllm_section(GRPOConfig(use_vllm=True, vllm_mode="server"), "cpu").url == "http://127.0.0.1:8000"


def test_colocate_starts_a_server_in_the_environment_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(fake_python(tmp_path)))
    run = trainer(tmp_path / "out", vllm_importance_sampling_mode="token_truncate", **SHARED)
    run.train()
    assert run.evaluate(run.train_dataset[:2])["eval_reward"] is not None, "the server lives as long as the trainer"
    run.end()
    log = (tmp_path / "out" / "vllm.log").read_text()
    assert not Path(f"/proc/{int(log.split('serving ')[1].split()[0])}").exists()
    assert logs_of(run)[0]["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("mode", ["sequence_mask", "token_truncate", "token_mask"])
def test_a_faithful_sampler_changes_nothing_but_the_draws(tmp_path: Path, mode: str) -> None:
    """With importance weights of about 1 the update is about the one without them."""
    ends = {}
    for correction in (True, False):
        standin = StandIn(saved(tiny_policy(), tmp_path / f"served-{correction}"))
        with serving(standin) as url:
            run = trainer(
                tmp_path / f"out-{correction}", vllm_mode="server", vllm_server_base_url=url,
                vllm_importance_sampling_correction=correction, vllm_importance_sampling_mode=mode,
                **(SHARED | {"max_steps": 1}),
            )  # fmt: skip
            start = [p.detach().clone() for p in run.model.parameters()]
            run.train()
        ends[correction] = [p.detach() - s for p, s in zip(run.model.parameters(), start, strict=True)]
    largest = max(float(moved.abs().max()) for moved in ends[False])
    for weighed, plain in zip(ends[True], ends[False], strict=True):
        assert float((weighed - plain).abs().max()) < 0.01 * largest


def test_without_any_vllm_one_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^use_vllm=True: no vLLM is found; set {PYTHON_VARIABLE}") as caught:
        trainer(tmp_path, **SHARED)
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer_is_waited_for_and_named(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(UserError, match=r"^vllm_server_base_url=http://127.0.0.1:9: .*vllm_mode=\"colocate\""):
        trainer(tmp_path, vllm_mode="server", vllm_server_base_url="http://127.0.0.1:9",
                **(SHARED | {"vllm_server_timeout": 0.2}))  # fmt: skip
    assert "waiting for the vLLM server" in capsys.readouterr().err


def test_an_address_that_is_none_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^vllm_server_base_url=localhost:8000: not an address"):
        trainer(tmp_path, vllm_mode="server", vllm_server_base_url="localhost:8000", **SHARED)


def test_fields_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "/some/python")
    args = GRPOConfig(
        use_vllm=True, vllm_gpu_memory_utilization=0.5, vllm_max_model_length=1024, vllm_enable_sleep_mode=True,
        vllm_tensor_parallel_size=2, vllm_model_impl="transformers",
    )  # fmt: skip
    section = vllm_section(args, "cuda")
    assert (section.gpu_memory_utilization, section.max_model_len, section.sleep) == (0.5, 1024, True)
    assert section.arguments == ("--tensor-parallel-size", "2", "--model-impl", "transformers")
    assert not vllm_section(args, "cpu").sleep


def test_importance_fields_mean_what_they_mean_in_trl() -> None:
    def config(**fields: Any) -> GRPOConfig:
        return GRPOConfig(use_vllm=True, **fields)

    assert importance_of(config()) == Importance(None, 3.0, mask=True)
    truncated = config(vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_cap=2.0)
    assert importance_of(truncated) == Importance(None, 2.0, mask=False, whole=False)
    bounded = config(vllm_importance_sampling_mode="sequence_truncate", vllm_importance_sampling_clip_min=0.5)
    assert importance_of(bounded) == Importance(0.5, 3.0, mask=False)
    masked = config(vllm_importance_sampling_mode="token_mask", vllm_importance_sampling_clip_min=0.5)
    assert importance_of(masked) == Importance(0.5, 3.0, mask=True, whole=False)
    both = config(vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_min=0.5)
    assert importance_of(both) == Importance(0.5, 3.0, mask=False, whole=False)
    assert importance_of(config(vllm_importance_sampling_correction=False)) is None
    assert importance_of(GRPOConfig()) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"vllm_mode": "remote"}, {"vllm_importance_sampling_mode": "token"}, {"vllm_gpu_memory_utilization": 0.0},
        {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": None},
        {"vllm_importance_sampling_clip_min": 4.0}, {"vllm_max_model_length": 0}, {"vllm_tensor_parallel_size": 0},
        {"vllm_importance_sampling_mode": "sequence_truncate", "vllm_importance_sampling_clip_max": None},
        {"vllm_mode": "server", "vllm_server_host": ""},
    ],
)  # fmt: skip
def test_impossible_values_stop_naming_the_field(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        GRPOConfig(use_vllm=True, **fields)
    assert any(name in str(caught.value) for name in fields)


@pytest.mark.parametrize(
    ("low", "high", "mask"), [(None, 3.0, True), (0.5, 2.0, True), (0.5, None, False), (0.7, 1.2, False)]
)
def test_weights_of_completions_are_those_of_trl(low: float | None, high: float | None, mask: bool) -> None:
    """The expression of TRL 1.16's _generate_and_score_completions, on the same ratios."""
    ratio = torch.tensor([0.1, 0.6, 1.0, 1.9, 2.5, 7.0])
    if mask:
        outside = (ratio < (-torch.inf if low is None else low)) | (ratio > (torch.inf if high is None else high))
        expected = ratio.masked_fill(outside, value=0.0)
    else:
        expected = torch.clamp(ratio, min=low, max=high)
    assert torch.equal(Importance(low, high, mask=mask).weights(ratio), expected)


def test_rewards_see_the_completions_that_vllm_drew(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def reward(completion_ids: list[list[int]], completions: list[Any], **_: Any) -> list[float]:
        seen.extend(completion_ids)
        return length_reward(completions)

    standin = StandIn(saved(tiny_policy(), tmp_path / "served"))
    with serving(standin) as url:
        trainer(tmp_path / "out", reward_funcs=reward, vllm_mode="server", vllm_server_base_url=url,
                **(SHARED | {"max_steps": 1})).train()  # fmt: skip
    assert len(seen) == 8 and all(seen)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not REAL_PYTHON, reason=f"{PYTHON_VARIABLE} names no Python with vLLM")
def test_three_steps_of_the_starter_on_the_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, REAL_PYTHON)
    rows = [{"prompt": [{"role": "user", "content": f"Tom has {i} pens and buys 3. How many?"}]} for i in range(8)]
    args = GRPOConfig(
        str(tmp_path / "out"), use_vllm=True, vllm_max_model_length=256, bf16=False, use_cpu=True, max_steps=3,
        per_device_train_batch_size=8, num_generations=4, max_completion_length=48, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    run = GRPOTrainer("starter", length_reward, args, rows)
    run.train()
    run.end()
    assert len(logs_of(run)) == 3
    for line in logs_of(run):
        assert line["vllm/pushed"] == 1.0 or line["step"] == 1
        assert line["sampling/importance_sampling_ratio/min"] == pytest.approx(1.0, abs=1e-2)
        assert line["sampling/importance_sampling_ratio/max"] == pytest.approx(1.0, abs=1e-2)
