"""vLLM's server and process: started, watched, restarted once, never left behind; and everything that is refused."""

from __future__ import annotations

import dataclasses
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import save_file

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError
from mathgrpo.rollout import build_engine
from mathgrpo.rollout.vllm import VllmEngine, build_vllm_engine, guard
from mathgrpo.rollout.vllm.backend import Drawn, ServerLost
from mathgrpo.rollout.vllm.client import Client
from mathgrpo.rollout.vllm.pushed_weights import (
    difference,
    plain_logprobs,
    served_weights,
    trial_ids,
    trial_limit,
    trial_policy,
)
from mathgrpo.rollout.vllm.served.mathgrpo_vllm_worker import WeightsExtension, weights_digest
from mathgrpo.rollout.vllm.server_process import SERVED
from mathgrpo.rollout.vllm.versions import PYTHON_VARIABLE
from mathgrpo.rollout.vllm.vllm_engine import _completion
from mathgrpo.types import Completion, Prompt, Sampling
from rollout.test_vllm_engine import expected_logprobs, prompts_of, saved, tiny_policy
from rollout.vllm_standin import StandIn, fake_python, serving

SAMPLING = Sampling(max_new_tokens=6)
PROMPT = Prompt((10, 11, 12), 0)


@pytest.fixture
def standin(tmp_path: Path) -> StandIn:
    return StandIn(saved(tiny_policy(), tmp_path / "model"))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def served_pids(log: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"serving (\d+)\n", log.read_text())]


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_server_that_keeps_old_weights_is_found_out(standin: StandIn) -> None:
    """It says it took every byte and computes with the old ones: the probe sees it, at the start or later."""
    standin.stale = True
    with serving(standin) as url:
        with pytest.raises(
            UserError, match=r"probe_tolerance.*a trial of new weights.*does not compute what the policy"
        ):
            build_vllm_engine(tiny_policy(seed=3), VllmSection(url=url))
        engine = build_vllm_engine(tiny_policy(seed=3), VllmSection(url=url, trial=False))
        with pytest.raises(UserError, match="the pushed weights"):
            engine.generate([PROMPT], 2, SAMPLING)
        assert "/v1/completions" in standin.calls and standin.calls[-1] == "/v1/completions"


def test_the_trial_finds_any_one_matrix_that_stays_behind(standin: StandIn) -> None:
    policy = tiny_policy()
    weights = served_weights(policy)
    matrices = [name for name, weight in weights.items() if weight.ndim > 1]
    assert len(matrices) == 15
    with serving(standin) as url:
        engine = build_vllm_engine(policy, VllmSection(url=url))
        for standin.behind in matrices:
            standin.model.load_state_dict(weights, strict=False)
            with pytest.raises(UserError, match="a trial of new weights"):
                engine.trial()


def test_rounding_alone_passes_the_trial_in_bfloat16() -> None:
    policy = dataclasses.replace(tiny_policy(), compute_dtype=torch.bfloat16)
    _, moved = trial_policy(policy, served_weights(policy))
    ids = trial_ids(policy)
    exact = plain_logprobs(dataclasses.replace(moved, compute_dtype=torch.float32), ids)
    rounding = difference(plain_logprobs(moved, ids), exact).mean
    assert 0.0 < rounding < trial_limit(moved, ids) == pytest.approx(max(0.15, 3 * rounding))


def test_a_server_that_took_other_bytes_is_found_out(standin: StandIn) -> None:
    standin.digest = "0" * 64
    with serving(standin) as url, pytest.raises(UserError, match="took other weights than were pushed"):
        build_vllm_engine(tiny_policy(), VllmSection(url=url))


def test_old_prefixes_are_dropped_after_every_push(standin: StandIn) -> None:
    with serving(standin) as url:
        engine = build_vllm_engine(tiny_policy(), VllmSection(url=url, trial=False))
        standin.calls.clear()
        engine.generate([PROMPT], 1, SAMPLING)
    assert standin.calls == ["/collective_rpc", "/reset_prefix_cache", "/v1/completions", "/v1/completions"]


def test_it_sleeps_during_the_update_and_wakes_for_the_rollout(standin: StandIn) -> None:
    with serving(standin) as url:
        policy = tiny_policy()
        engine = build_vllm_engine(policy, VllmSection(url=url))
        engine._section = VllmSection(url=url, sleep=True)
        engine.generate([PROMPT], 1, SAMPLING)
        standin.calls.clear()
        engine.make_room()
        engine.make_room()
        engine.generate([PROMPT], 1, SAMPLING)
    assert standin.calls == ["/sleep", "/wake_up", "/v1/completions"]
    with pytest.raises(UserError, match=r"rollout\.vllm\.sleep=true: vLLM's CPU builds do not sleep"):
        build_vllm_engine(policy, VllmSection(url=url, sleep=True))


def test_what_the_server_refuses_is_said_in_its_words(standin: StandIn) -> None:
    standin.policy = SimpleNamespace(max_context=4, eos_ids=standin.policy.eos_ids)
    with (
        serving(standin) as url,
        pytest.raises(UserError, match=r"refused \(400\): maximum context length is 4 tokens"),
    ):
        build_vllm_engine(tiny_policy(), VllmSection(url=url, trial=False)).generate([PROMPT], 1, SAMPLING)


def test_an_address_without_a_usable_server_is_one_clear_line(tmp_path: Path) -> None:
    def refused(url: str, **section: Any) -> str:
        with pytest.raises(UserError) as caught:
            build_vllm_engine(tiny_policy(), VllmSection(url=url, **section))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    folder = saved(tiny_policy(), tmp_path / "model")
    assert "no vLLM server with development routes answers there" in refused("http://127.0.0.1:9")
    assert "write it as http://HOST:PORT" in refused("localhost:8000")
    with serving(StandIn(folder, version="0.11.2")) as url:
        assert "vLLM 0.11.2 is outside the tested range >=0.32,<0.33" in refused(url)
        build_vllm_engine(tiny_policy(), VllmSection(url=url, any_version=True))
    with serving(StandIn(folder, logprobs_mode="raw_logprobs")) as url:
        assert "reports raw_logprobs log-probabilities" in refused(url)
        assert "leave rollout.vllm.python and mode out" in refused(url, python="/usr/bin/python3")
    assert "no folder can be made there" in refused(url, exchange=str(tmp_path / "missing"))


def test_an_interpreter_that_cannot_serve_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(python: object) -> str:
        with pytest.raises(UserError) as caught:
            build_vllm_engine(tiny_policy(), VllmSection(python=str(python)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    assert f"set rollout.vllm.python or the environment variable {PYTHON_VARIABLE}" in refused("")
    assert "there is no such file" in refused(tmp_path / "missing")
    (tmp_path / "text").write_text("no program")
    assert "does not run as a Python" in refused(tmp_path / "text")
    assert "vLLM is not installed there" in refused(sys.executable)
    assert "vLLM 0.11.2 is outside the tested range" in refused(fake_python(tmp_path, behaviour="old"))
    crash = refused(fake_python(tmp_path, behaviour="crash"))
    assert "the server ended while starting" in crash and "RuntimeError: no such device" in crash


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmEngine]:
    monkeypatch.setenv(PYTHON_VARIABLE, str(fake_python(tmp_path)))
    engine = build_engine(tiny_policy(seed=4), "vllm", vllm=VllmSection())
    assert isinstance(engine, VllmEngine)
    yield engine
    engine.close()


def kill_server(engine: VllmEngine) -> None:
    address = urlsplit(engine._backend.url)  # type: ignore[attr-defined]
    connection = http.client.HTTPConnection(str(address.hostname), int(address.port or 0))
    connection.request("POST", "/die")
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.getresponse()


def test_our_own_server_serves_restarts_once_and_then_stops_the_run(own_server: VllmEngine, tmp_path: Path) -> None:
    policy, prompt = own_server._policy, prompts_of(own_server)[0]
    own_server.keep_log(tmp_path)
    log = tmp_path / "vllm.log"
    wait_until(lambda: log.is_file() and served_pids(log))
    [first] = served_pids(log)
    assert alive(first)

    def check() -> None:
        [[row]] = own_server.generate([prompt], 1, SAMPLING)
        assert row.logprobs == pytest.approx(expected_logprobs(policy, prompt, row.ids, SAMPLING), abs=2e-4)

    check()
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.1)
    check()
    kill_server(own_server)
    check()  # restarted, with the changed weights
    assert not alive(first) and own_server.metrics["vllm/pushed"] == 1.0
    second = served_pids(log)[-1]
    assert second != first
    kill_server(own_server)
    with pytest.raises(UserError, match=r"was lost .*serving \d+") as caught:
        own_server.generate([prompt], 1, SAMPLING)
    assert "\n" not in str(caught.value)
    scratch = Path(own_server._scratch.name)
    assert scratch.is_dir()
    own_server.close()
    assert not scratch.exists() and not alive(second)


def test_a_server_that_is_not_ours_is_not_restarted(standin: StandIn) -> None:
    with serving(standin) as url:
        engine = build_vllm_engine(tiny_policy(), VllmSection(url=url))
    with pytest.raises(UserError, match="was lost"):
        engine.generate([PROMPT], 1, SAMPLING)


@pytest.mark.parametrize(
    ("signum", "stubborn"), [(signal.SIGKILL, False), pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow)]
)
def test_the_guard_ends_the_server_and_its_children_when_the_trainer_dies(
    tmp_path: Path, signum: int, stubborn: bool
) -> None:
    """The trainer here starts the guard as OwnServer does; the server has a child, and may ignore SIGTERM."""
    scratch = tmp_path / "weights"
    server = (
        "import os, signal, subprocess, sys, time\n"
        f"if {stubborn}: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ')\n"
        "time.sleep(600)\n"
    )
    trainer = (
        "import subprocess, sys, time\n"
        f"guard = [sys.executable, '-I', {guard.__file__!r}, {str(scratch)!r}, {str(scratch / 'log')!r}]\n"
        f"command = [*guard, sys.executable, '-c', {server!r}]\n"
        "process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    scratch.mkdir()
    process = subprocess.Popen([sys.executable, "-c", trainer])
    pids = tmp_path / "pids"
    wait_until(lambda: pids.is_file() and len(pids.read_text().split()) == 2 and pids.read_text().endswith(" "))
    running = [int(pid) for pid in pids.read_text().split()]
    assert all(map(alive, running))
    os.kill(process.pid, signum)
    process.wait()
    wait_until(lambda: not any(map(alive, running)))
    wait_until(lambda: not scratch.exists())


def test_the_worker_needs_nothing_of_this_package(tmp_path: Path) -> None:
    """vLLM's python sees the served folder alone; the worker there loads and digests as we do."""
    weights = {"b.weight": torch.randn(3, 2), "a.bias": torch.randn(4).bfloat16(), "c": torch.tensor(2.0)}
    save_file(weights, tmp_path / "w.safetensors")
    code = (
        "import sys\n"
        "from mathgrpo_vllm_worker import WeightsExtension\n"
        "class Runner:\n"
        "    def reload_weights(self, weights_iterator): self.taken = dict(weights_iterator)\n"
        "    def get_model(self): import torch; return torch.nn.Linear(2, 2)\n"
        "worker = WeightsExtension(); worker.model_runner = Runner()\n"
        f"print(worker.mathgrpo_load({str(tmp_path / 'w.safetensors')!r})['digest'], *worker.model_runner.taken)\n"
        "assert not any(name == 'mathgrpo' or name.startswith('mathgrpo.') for name in sys.modules)\n"
    )
    environment = {"PYTHONPATH": str(SERVED), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [weights_digest(sorted(weights.items())), "a.bias", "b.weight", "c"]
    weights["b.weight"][1, 1] += 1e-3
    assert weights_digest(sorted(weights.items())) != done.stdout.split()[0]
    assert {path.name for path in SERVED.iterdir()} <= {"__init__.py", "__pycache__", "mathgrpo_vllm_worker.py"}


def test_a_packed_copy_of_tied_weights_is_packed_again(tmp_path: Path) -> None:
    """As in vLLM's CPU build: a tied output layer computes with a packed copy that a reload does not renew."""
    embedding, output = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
    output.weight = embedding.weight

    def pack(module: Any) -> None:
        copy = module.weight.detach().clone()
        module.cpu_linear = lambda x: x @ copy.T

    output.quant_method = SimpleNamespace(process_weights_after_loading=pack)  # type: ignore[assignment]
    pack(output)
    model = torch.nn.ModuleList([embedding, output])

    class Runner:
        def reload_weights(self, weights_iterator: Any) -> None:
            embedding.weight.data.copy_(dict(weights_iterator)["weight"])

        def get_model(self) -> Any:
            return model

    worker = WeightsExtension()
    worker.model_runner = Runner()
    new = torch.randn(4, 3)
    save_file({"weight": new}, tmp_path / "w.safetensors")
    worker.mathgrpo_load(str(tmp_path / "w.safetensors"))
    x = torch.randn(2, 3)
    assert torch.allclose(output.cpu_linear(x), x @ new.T)  # type: ignore[operator]


class _FakeLLM:
    """vllm.LLM, over the stand-in."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.standin = settings, StandIn(Path(settings["model"]))

    def collective_rpc(self, method: str, args: tuple[str, ...]) -> list[Any]:
        return self.standin.answer("/collective_rpc", {"method": method, "args": list(args)})[1]["results"]  # type: ignore[no-any-return]

    def reset_prefix_cache(self) -> bool:
        return True

    def generate(self, prompts: list[dict[str, Any]], settings: list[Any], use_tqdm: bool) -> list[Any]:
        return [
            self._output(prompt["prompt_token_ids"], fields.__dict__)
            for prompt, fields in zip(prompts, settings, strict=True)
        ]

    def _output(self, ids: list[int], fields: dict[str, Any]) -> Any:
        status, answer = self.standin.answer("/v1/completions", {"prompt": ids, **fields})
        assert status == 200
        if "prompt_logprobs" in fields:
            entries = answer["choices"][0]["prompt_logprobs"]
            plain = [e and {int(t): SimpleNamespace(**v) for t, v in e.items()} for e in entries]
            return SimpleNamespace(prompt_logprobs=plain, outputs=[])
        rows = [
            SimpleNamespace(
                index=choice["index"], token_ids=choice["token_ids"],
                logprobs=[
                    {token: SimpleNamespace(logprob=value)}
                    for token, value in zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True)
                ],
            )
            for choice in answer["choices"]
        ]  # fmt: skip
        return SimpleNamespace(outputs=rows)


def fake_vllm(version: str = "0.32.0") -> ModuleType:
    module = ModuleType("vllm")
    module.__spec__ = SimpleNamespace(name="vllm")  # type: ignore[assignment]
    module.__version__, module.LLM, module.SamplingParams = version, _FakeLLM, SimpleNamespace  # type: ignore[attr-defined]
    return module


def test_colocated_vllm_is_the_same_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm())
    policy = tiny_policy(seed=6)
    engine = build_vllm_engine(policy, VllmSection(mode="colocate", gpu_memory_utilization=0.4))
    assert "in this process" in engine.reason
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.2)
    for prompt, rows in zip(prompts_of(engine), engine.generate(prompts_of(engine), 2, SAMPLING), strict=True):
        for row in rows:
            assert row.logprobs == pytest.approx(expected_logprobs(policy, prompt, row.ids, SAMPLING), abs=2e-4)
    settings = engine._backend._llm.settings  # type: ignore[attr-defined]
    assert settings["logprobs_mode"] == "processed_logprobs" and settings["generation_config"] == "vllm"
    assert settings["gpu_memory_utilization"] == 0.4
    with pytest.raises(UserError, match=r"rollout\.vllm\.arguments: are for a server"):
        build_vllm_engine(policy, VllmSection(mode="colocate", arguments=("--enforce-eager",)))


def test_colocate_without_a_usable_vllm_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(UserError, match="vLLM is not installed in this environment"):
        build_vllm_engine(tiny_policy(), VllmSection(mode="colocate"))
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm("0.20.1"))
    with pytest.raises(UserError, match=r"colocate: vLLM 0\.20\.1 is outside the tested range"):
        build_vllm_engine(tiny_policy(), VllmSection(mode="colocate"))


def test_a_completion_without_log_probabilities_is_not_taken() -> None:
    assert _completion(Drawn([3, 4], [-0.5, 0.0]), {4}) == Completion((3, 4), (-0.5, 0.0), "eos")
    for logprobs in ([-0.5], [-0.5, None], [-0.5, float("nan")], [-0.5, float("-inf")]):
        with pytest.raises(ServerLost):
            _completion(Drawn([3, 4], logprobs), {4})  # type: ignore[arg-type]


def test_client_reads_an_address() -> None:
    assert Client("http://10.0.0.1:80", timeout_s=1.0).url == "http://10.0.0.1:80"
