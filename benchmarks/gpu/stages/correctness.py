"""Whether it computes on this device what it should: engines, sampler, gradient, and the `gpu` tests."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.carried import ROOT
from benchmarks.gpu.case import Case, NotHere, Numbers, Setup, WrongNumbers
from benchmarks.gpu.checks import (
    against_plain,
    chi_square,
    completion_logits,
    gradient_of,
    picked_logprobs,
    require_plain,
)
from benchmarks.gpu.synthetic import groups_of, random_groups, random_model, random_policy, random_prompts
from benchmarks.gradient import distance
from mathgrpo.models import Policy
from mathgrpo.rollout import build_engine
from mathgrpo.rollout.cuda.graph_engine import build_graph_engine
from mathgrpo.rollout.cuda.kernels import TorchKernels
from mathgrpo.types import RolloutGroup, Sampling

_LAYERS = 4
"""Of the true shape's 24: every width, head and vocabulary is the true one."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cases(setup: Setup) -> Iterator[Case]:
    """Yield the engines in both precisions, the sampler, the gradients, the optimizer, and the tests."""
    check = _Check(setup)
    for dtype in ("bfloat16", "float32"):
        for triton in (True, False):
            for graphs in (True, False):
                kind = f"{'Triton kernels' if triton else 'torch operations'}, {'graphs' if graphs else 'eager'}"
                yield Case(f"engine in {dtype}: {kind}",
                           partial(check.engine, dtype, triton, graphs), limit_s=60)  # fmt: skip
    yield Case("sampler against trainer", check.sampler_against_trainer, limit_s=40)
    for triton in (True, False):
        kind = "Triton kernels" if triton else "torch operations"
        yield Case(f"χ² of the sampler: {kind}", partial(check.draws, triton, setup.pick(64, 32)))
        yield Case(f"χ² of the sampler, large vocabulary: {kind}",
                   partial(check.draws, triton, setup.pick(151_936, 1933)))  # fmt: skip
    yield Case("gradient: sdpa", lambda: check.gradient(attention="sdpa"))
    yield Case("gradient: varlen", lambda: check.gradient(attention="varlen"))
    yield Case("gradient: fused forward", lambda: check.gradient(fused_forward="on"))
    yield Case("gradient: compute copies", lambda: check.gradient(attention="sdpa", compute_copy="on"))
    yield Case("gradient: as a run does it", lambda: check.gradient(compute_copy="auto"))
    check.forget()
    yield Case("every gpu test", lambda: _gpu_tests(setup), limit_s=setup.pick(80, 100))


class _Check:
    """A small model in the true widths, and what is compared on it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        layers = setup.pick(_LAYERS, 2)
        self._model = cache(lambda: random_model(setup, num_hidden_layers=layers))
        self._exact = cache(self._exact_gradient)

    def forget(self) -> None:
        """Give the device back to the processes of the tests."""
        self._exact.cache_clear()
        self._model.cache_clear()

    def engine(self, dtype: str, triton: bool, graphs: bool) -> Numbers:
        """Compare an engine's completions of ragged prompts with plain forward passes."""
        setup, policy = self._setup, self._policy(dtype)
        if graphs and setup.device != "cuda":
            raise NotHere("graphs need CUDA")
        if triton:
            require_triton(setup)
            if dtype == "bfloat16" and setup.device != "cuda":
                raise NotHere("Triton's interpreter multiplies the bits of bfloat16 matrices as integers")
        engine, obstacle = build_graph_engine(policy, triton=triton, graphs=graphs)
        if engine is None or (triton and "Triton" not in engine.reason.split(";")[0]):
            raise WrongNumbers(obstacle or (engine.reason if engine else ""), {})
        vocabulary = policy.model.config.vocab_size
        lengths = setup.pick((3, 17, 64, 65, 150, 5, 1, 128), (3, 17))
        prompts = [dataclasses.replace(random_prompts(1, n, vocabulary, seed=i)[0], key=i)
                   for i, n in enumerate(lengths)]  # fmt: skip
        sampling = Sampling(setup.pick(24, 2 if triton else 6), seed=3)
        for _ in range(3 if graphs else 1):  # met, captured, replayed
            drawn = engine.generate(prompts, 2, sampling)
        numbers = against_plain(policy, prompts, drawn, sampling)
        return require_plain(numbers | {"captured": engine.num_captured, "engine": engine.reason}, _DTYPES[dtype])

    def sampler_against_trainer(self) -> Numbers:
        """Compare the log-probabilities of sampler and update over the whole true model; noise is bfloat16's own."""
        setup = self._setup
        self._model.cache_clear()
        policy = random_policy(setup, random_model(setup))
        engine = build_engine(policy)
        prompts = random_prompts(setup.pick(8, 2), setup.pick(100, 8), policy.model.config.vocab_size)
        drawn = engine.generate(prompts, setup.pick(8, 2), Sampling(setup.pick(100, 6), seed=2))
        groups = groups_of(prompts, drawn)
        metrics = gradient_of(policy, groups)[1]
        exact = dataclasses.replace(policy, compute_dtype=torch.float32)
        noise = gradient_of(policy, [_with_plain_logprobs(exact, group) for group in groups])[1]
        name = "sampling/logprob_difference/mean"
        numbers: Numbers = {
            "difference": metrics[name], "noise": noise[name], "over_noise": metrics[name] / noise[name],
            "largest": metrics[name.replace("mean", "max")], "engine": engine.reason,
        }  # fmt: skip
        if not numbers["over_noise"] <= 3.0:
            raise WrongNumbers("sampler and trainer are further apart than bfloat16 explains", numbers)
        return numbers

    def draws(self, triton: bool, vocabulary: int) -> Numbers:
        """Compare draws with their distribution."""
        kernels: TorchKernels = _triton_kernels(self._setup) if triton else TorchKernels()
        steps, rows, bins = self._setup.pick((100, 1024, 64), (4, 64, 8))
        return chi_square(kernels, self._setup.device, vocabulary, steps, rows, bins)

    def gradient(self, **options: str) -> Numbers:
        """Compare a bfloat16 gradient with the float32 one of the modules with sdpa, and with bfloat16's own error."""
        reference, usual = self._exact()
        got, _, notes = gradient_of(self._policy("bfloat16"), self._groups(), **options)
        self._model.cache_clear()  # a compute copy has changed its matrices' precision
        named = options.get("attention", "")
        if self._setup.device == "cuda" and any("not used" in note and named in note for note in notes if named):
            raise WrongNumbers("; ".join(notes), {})
        numbers: Numbers = {"error": distance(got, reference), "bfloat16_error": usual, "notes": "; ".join(notes)}
        if not numbers["error"] <= 1.5 * usual + 1e-4:
            raise WrongNumbers("the gradient is further from float32's than bfloat16 explains", numbers)
        return numbers

    def _exact_gradient(self) -> tuple[dict[str, torch.Tensor], float]:
        plain = {"attention": "sdpa", "fused_forward": "off", "compile": "off"}
        reference = gradient_of(self._policy("float32"), self._groups(), **plain)[0]
        usual = gradient_of(self._policy("bfloat16"), self._groups(), **plain, shared_prompt=False)[0]
        return reference, distance(usual, reference)

    def _groups(self) -> list[RolloutGroup]:
        prompts, size, prompt_tokens, new_tokens = self._setup.pick((4, 4, 60, 50), (2, 3, 8, 6))
        return random_groups(prompts, size, prompt_tokens, new_tokens, self._model().config.vocab_size)

    def _policy(self, dtype: str) -> Policy:
        return random_policy(self._setup, self._model(), _DTYPES[dtype])


def require_triton(setup: Setup) -> None:
    """Return where Triton kernels can run: on CUDA, or in an interpreter that knows this numpy.

    Raises: NotHere otherwise.
    """
    versions = {}
    for name in ("triton", "numpy"):
        try:
            versions[name] = tuple(int(part) for part in importlib.metadata.version(name).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            raise NotHere(f"{name} is not installed") from None
    if setup.device != "cuda" and versions["triton"] < (3, 7) and versions["numpy"] >= (2, 4):
        raise NotHere("the interpreter of Triton before 3.7 cannot loop to a computed bound under numpy 2.4 or newer")


def failures_of(report: Path) -> tuple[dict[str, int], list[str]]:
    """Return how many tests of a JUnit report passed, failed and were skipped, and each failure's first line."""
    counts, lines = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ElementTree.parse(report).iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        if bad is not None:
            said = (bad.get("message") or bad.text or "").strip().splitlines()
            lines.append(f"{case.get('classname')}::{case.get('name')}: {said[0][:160] if said else bad.tag}")
        skipped = any(child.tag == "skipped" for child in case)
        counts["failed" if bad is not None else "skipped" if skipped else "passed"] += 1
    return counts, lines


def _gpu_tests(setup: Setup) -> Numbers:
    """Run every test that is marked `gpu`; files without such a test are not even imported.

    Several at once where that is to be had: most of their time a compiler works, not the device.
    """
    if importlib.util.find_spec("pytest") is None:
        raise NotHere("pytest is not installed")
    files = sorted(str(p) for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text(encoding="utf-8"))
    report = setup.scratch / "gpu-tests.xml"
    several = ["-n", "6"] if importlib.util.find_spec("xdist") and setup.device == "cuda" else []
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}",
               *several, *files]  # fmt: skip
    with setup.log.open("ab") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if not report.is_file():
        raise RuntimeError(f"pytest ended with exit code {code} and wrote no report; see the log")
    counts, lines = failures_of(report)
    numbers: Numbers = {**counts, "failures": lines}
    if lines or (setup.device == "cuda" and not counts["passed"]):
        raise WrongNumbers(f"{counts['failed']} of {sum(counts.values())} gpu tests failed", numbers)
    return numbers


def _triton_kernels(setup: Setup) -> Any:
    require_triton(setup)
    from mathgrpo.rollout.cuda.triton_layers import TritonKernels

    return TritonKernels()


def _with_plain_logprobs(policy: Policy, group: RolloutGroup) -> RolloutGroup:
    """Return the group as if a sampler had told the log-probabilities of a plain forward pass."""
    completions = []
    for completion in group.completions:
        logprobs = picked_logprobs(completion_logits(policy, group.prompt, completion), completion)
        completions.append(dataclasses.replace(completion, logprobs=tuple(logprobs.tolist())))
    return dataclasses.replace(group, completions=tuple(completions))
