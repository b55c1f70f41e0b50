"""Rollouts in the true shape of Qwen2.5-0.5B: tokens a second by rows, what a step is spent on, others' ways."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from benchmarks.gpu.case import Case, NotHere, Numbers, Setup
from benchmarks.gpu.kernels_by_class import Span, class_seconds, device_spans, longest_kernels, profiled
from benchmarks.gpu.synthetic import random_model, random_policy, random_prompts
from benchmarks.gpu.timing import seconds_once, waiting_seconds
from benchmarks.task import FORCED_END
from mathgrpo.models import Policy
from mathgrpo.rollout.cuda.graph_engine import GraphEngine, build_graph_engine
from mathgrpo.types import Prompt, Sampling

ROWS = (512, 64, 1, 256, 1024, 8)
"""In the order of what they are worth."""
GROUP = 8
TIMED = 3


def cases(setup: Setup) -> Iterator[Case]:
    """Yield each number of rows, then what a step is spent on, then the other ways to decode."""
    bench = _Bench(setup)
    for rows in ROWS:
        yield Case(f"{rows} rows", partial(bench.rows, rows), size=f"{rows} rows × (200 + 200)", limit_s=40)
        if rows == 512:
            yield Case("512 rows: a step by kernel", lambda: bench.profile(512), limit_s=30)
    yield Case("512 rows, torch operations in graphs", partial(bench.rows, 512, triton=False), limit_s=40)
    yield Case("64 rows, torch operations in graphs", partial(bench.rows, 64, triton=False), limit_s=40)
    yield Case("64 rows, without graphs", partial(bench.rows, 64, graphs=False), limit_s=40)
    yield Case("512 rows of ragged lengths", lambda: bench.ragged(512), limit_s=30)
    bench.forget()
    peers = _Peers(setup)
    for rows in (512, 64):
        yield Case(f"{rows} rows, transformers generate", partial(peers.dynamic, rows), limit_s=30)
    for rows in (64, 512):
        yield Case(f"{rows} rows, transformers static cache + compile", partial(peers.static, rows),
                   limit_s=60)  # fmt: skip
        yield Case(f"{rows} rows, transformers continuous batching", partial(peers.batching, rows),
                   limit_s=40)  # fmt: skip


class _Bench:
    """One policy and its engines."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._tokens: int = setup.pick(200, 6)
        self._engines: dict[tuple[bool, bool], GraphEngine] = {}
        self._policy_of = cache(lambda: random_policy(setup, random_model(setup)))

    def rows(self, rows: int, *, triton: bool = True, graphs: bool = True) -> Numbers:
        """Measure whole rollouts of so many rows, all at their limit."""
        engine = self._engine(triton, graphs)
        prompts, group_size = self._prompts(rows)
        sampling = Sampling(self._tokens, seed=1)
        generate = lambda: engine.generate(prompts, group_size, sampling)  # noqa: E731
        first = waiting_seconds(generate, self._setup.device)  # two calls: shapes are met, then captured
        captured = engine.num_captured
        seconds = [seconds_once(generate, self._setup.device) for _ in range(TIMED)]
        alone = waiting_seconds(lambda: engine.generate(prompts, group_size, replace(sampling, max_new_tokens=1)),
                                self._setup.device, repeats=2)  # fmt: skip
        median = statistics.median(seconds)
        sampled = len(prompts) * group_size * self._tokens
        return {
            "tokens_per_s": sampled / median, "seconds": median, "fastest_s": min(seconds), "second_call_s": first,
            "prefill_and_first_token_s": alone,
            "prompt_tokens_per_s": len(prompts) * self._tokens / alone,
            "ms_per_step": 1e3 * (median - alone) / (self._tokens - 1),
            "captured": captured, "captured_again": engine.num_captured - captured,
            "capture_error": engine.capture_error, "engine": engine.reason,
        }  # fmt: skip

    def ragged(self, rows: int) -> Numbers:
        """Measure a rollout whose rows end at random, as a model's do: a step's rows shrink through the buckets."""
        setup = self._setup
        policy = replace(self._policy_of(), eos_ids=tuple(range(2, 2 + self._vocabulary() // 100)))
        engine, obstacle = build_graph_engine(policy, triton=_triton(setup), graphs=setup.device == "cuda")
        if engine is None:
            raise RuntimeError(obstacle)
        prompts, group_size = self._prompts(rows)
        sampling = Sampling(setup.pick(512, 12), seed=1)
        for _ in range(2):
            completions = engine.generate(prompts, group_size, sampling)
        captured = engine.num_captured
        seconds = seconds_once(lambda: engine.generate(prompts, group_size, sampling), setup.device)
        lengths = [len(completion.ids) for group in completions for completion in group]
        return {
            "tokens_per_s": sum(lengths) / seconds, "seconds": seconds, "mean_length": statistics.mean(lengths),
            "longest": max(lengths), "captured": captured, "captured_again": engine.num_captured - captured,
        }  # fmt: skip

    def profile(self, rows: int) -> Numbers:
        """Measure what the device does in replayed steps, by kernel class; the prefill's part is taken out."""
        setup, engine = self._setup, self._engine(True, True)
        prompts, group_size = self._prompts(rows)
        steps = setup.pick(40, 4)

        def events(new_tokens: int) -> list[Span]:
            sampling = Sampling(new_tokens, seed=1)
            for _ in range(2):
                engine.generate(prompts, group_size, sampling)
            return device_spans(profiled(lambda: engine.generate(prompts, group_size, sampling), setup.device))

        few, many = events(1), events(1 + steps)
        if not many:
            return {"kernels": 0, "note": "no device, so nothing to see"}
        short, long = class_seconds(few), class_seconds(many)
        per_step = {name: 1e6 * (long[name] - short.get(name, 0.0)) / steps for name in long}
        span = (many[-1].end - many[0].start) - (few[-1].end - few[0].start if few else 0.0)
        return {
            "us_per_step": sum(per_step.values()), "span_us_per_step": span / steps,
            "kernels_per_step": (len(many) - len(few)) / steps, "us_by_class": per_step,
            "us_by_kernel": {name: 1e6 * s / steps for name, s in longest_kernels(many, 14).items()},
        }  # fmt: skip

    def forget(self) -> None:
        """Give the device back before others are measured."""
        self._engines.clear()
        self._policy_of.cache_clear()

    def _engine(self, triton: bool, graphs: bool) -> GraphEngine:
        """Return an engine of the kind asked for, made once.

        Raises: RuntimeError where another was built in its place: the name of a case is what was measured.
        """
        setup = self._setup
        triton, graphs = triton and _triton(setup), graphs and setup.device == "cuda"
        if (triton, graphs) not in self._engines:
            self._engines.clear()  # two of them are two copies of the weights
            engine, obstacle = build_graph_engine(self._policy_of(), triton=triton, graphs=graphs)
            if engine is None:
                raise RuntimeError(obstacle)
            self._engines[triton, graphs] = engine
        engine = self._engines[triton, graphs]
        if triton and "Triton" not in engine.reason.split(";")[0]:
            raise RuntimeError(f"no Triton kernels: {engine.reason}")
        return engine

    def _prompts(self, rows: int) -> tuple[list[Prompt], int]:
        group_size = min(GROUP, rows)
        count = self._setup.pick(rows // group_size, 1)
        return random_prompts(count, self._tokens, self._vocabulary()), self._setup.pick(group_size, 2)

    def _vocabulary(self) -> int:
        return int(self._policy_of().model.config.vocab_size)


class _Peers:
    """transformers' own ways to decode, of bfloat16 weights: no autocast, which would slow them down.

    Nor cuDNN, which would plan attention anew for every token; this project's engine keeps it out of the way too.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._tokens: int = setup.pick(200, 4)
        self._policy_of = cache(self._policy)

    def dynamic(self, rows: int) -> Numbers:
        """Measure `generate` as it comes."""
        return self._generate(rows)

    def static(self, rows: int) -> Numbers:
        """Measure `generate` with a static cache, which transformers compiles on CUDA."""
        return self._generate(rows, cache_implementation="static")

    def batching(self, rows: int) -> Numbers:
        """Measure `generate_batch`; prompts are given once for each of their completions, as TRL gives them."""
        from transformers import GenerationConfig

        model: Any = self._policy_of().model
        if not hasattr(model, "generate_batch"):
            raise NotHere("this transformers has no generate_batch")
        config = GenerationConfig(**self._options())
        inputs = self._ids(rows).tolist()
        pages = _few_pages() if self._setup.rehearse else None

        def generate() -> Any:
            return model.generate_batch(
                inputs=inputs, generation_config=config, continuous_batching_config=pages, progress_bar=False
            )

        results = generate()
        sampled = sum(len(result.generated_tokens) for result in results.values())
        return self._numbers(rows, generate) | {"sampled_of_wanted": sampled / (len(inputs) * self._tokens)}

    def _generate(self, rows: int, **options: Any) -> Numbers:
        model, ids = self._policy_of().model, self._ids(rows)
        mask = torch.ones_like(ids)

        def generate() -> Any:
            with torch.inference_mode():
                return model.generate(input_ids=ids, attention_mask=mask, **self._options(), **options)

        generate()
        return self._numbers(rows, generate)

    def _numbers(self, rows: int, generate: Callable[[], Any]) -> Numbers:
        seconds = seconds_once(generate, self._setup.device)
        return {"tokens_per_s": self._setup.pick(rows, 2) * self._tokens / seconds, "seconds": seconds}

    def _options(self) -> dict[str, Any]:
        return {"max_new_tokens": self._tokens, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
                "eos_token_id": FORCED_END, "pad_token_id": 0}  # fmt: skip

    def _ids(self, rows: int) -> torch.Tensor:
        count = self._setup.pick(rows, 2)
        prompts = random_prompts(-(-count // GROUP), self._tokens, self._policy_of().model.config.vocab_size)
        ids = torch.tensor([prompts[i // GROUP].ids for i in range(count)])
        return ids.to(self._setup.device)

    def _policy(self) -> Policy:
        model = random_model(self._setup).to(torch.bfloat16)
        model.generation_config.eos_token_id = None
        return random_policy(self._setup, model)


def _few_pages() -> Any:
    """Return a small paged cache: left to itself on a CPU it takes most of the free memory for pages."""
    import transformers.generation

    kind: Any = transformers.generation
    known = inspect.signature(kind.ContinuousBatchingConfig).parameters
    size = "page_size" if "page_size" in known else "block_size"  # what transformers 5.17 calls it
    return kind.ContinuousBatchingConfig(**{size: 32}, num_blocks=16, max_batch_tokens=64)


def _triton(setup: Setup) -> bool:
    """Whether Triton kernels are asked for: never in a rehearsal, where each would be interpreted for minutes."""
    return setup.device == "cuda"
