"""Rows that come and go one by one are given what `generate` gives each of them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fakes import randomised, tiny_model, tiny_tokenizer
from mathgrpo.errors import UserError
from mathgrpo.models import Policy, policy_from
from mathgrpo.rollout.c.c_decoder import compiled_decoder
from mathgrpo.rollout.c.library import why_not_compiled
from mathgrpo.rollout.decoder import Decoder
from mathgrpo.rollout.engine import NativeEngine
from mathgrpo.rollout.hf.cached_decoder import cached_decoder
from mathgrpo.rollout.scheduler import Rows
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.types import Completion, Prompt, Sampling

DECODERS: dict[str, Any] = {"compiled": compiled_decoder, "fused": fused_decoder, "cached": cached_decoder}
SAMPLINGS = (
    Sampling(max_new_tokens=40, seed=5),
    Sampling(max_new_tokens=90, temperature=0.0),
    Sampling(max_new_tokens=25, temperature=0.7, top_k=20, top_p=0.9, seed=8),
    Sampling(max_new_tokens=60, temperature=1.4, seed=2),
    Sampling(max_new_tokens=1, min_p=0.05, seed=3),
)
PROMPTS = tuple(
    Prompt(ids=tuple((7 * i + 11 * j) % 90 + 6 for j in range(length)), key=1000 + i)
    for i, length in enumerate((5, 17, 1, 70, 33, 9, 2, 64, 12))
)


def policy_of(architecture: str = "qwen2") -> Policy:
    model = randomised(tiny_model(architecture, seed=2))
    with torch.no_grad():
        model.get_output_embeddings().weight[1] *= 1.5  # rows end at different lengths
    return policy_from(model, tiny_tokenizer(), device="cpu", dtype=torch.float32, name=architecture)


def decoder_of(name: str, policy: Policy) -> Decoder:
    if name == "compiled" and why_not_compiled(policy):
        pytest.skip(why_not_compiled(policy))
    decoder: Decoder = DECODERS[name](policy)
    return decoder


class Collector:
    """What tickets were given, step by step."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.ids: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[float]] = {}
        self.reasons: dict[int, Any] = {}

    def step(self, most: int = 1) -> None:
        for drawn in self.rows.step(most):
            assert drawn.ticket not in self.reasons, "a row that has ended is given nothing"
            self.ids.setdefault(drawn.ticket, []).extend(drawn.ids)
            self.logprobs.setdefault(drawn.ticket, []).extend(drawn.logprobs)
            if drawn.finish_reason is not None:
                self.reasons[drawn.ticket] = drawn.finish_reason

    def to_end(self) -> None:
        while self.rows.busy:
            self.step(8)

    def completion(self, ticket: int) -> Completion:
        return Completion(tuple(self.ids[ticket]), tuple(self.logprobs[ticket]), self.reasons[ticket])


def assert_same(got: Completion, expected: Completion, *, exact: bool) -> None:
    assert (got.ids, got.finish_reason) == (expected.ids, expected.finish_reason)
    if exact:
        assert got.logprobs == expected.logprobs
    torch.testing.assert_close(torch.tensor(got.logprobs), torch.tensor(expected.logprobs), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("compiled", "qwen3"), ("fused", "qwen2"), ("cached", "qwen2"), ("cached", "gpt2")],
)
@pytest.mark.parametrize("max_rows", [2, 5, 30])
def test_rows_submitted_while_others_run_are_what_each_is_alone(name: str, architecture: str, max_rows: int) -> None:
    """Every row has its own sampling; prompts longer than all before them come midway. C: the same bits."""
    policy = policy_of(architecture)
    decoder = decoder_of(name, policy)
    alone = NativeEngine(policy, decoder)
    asked = [(prompt, SAMPLINGS[i % len(SAMPLINGS)], 1 + i % 3) for i, prompt in enumerate(PROMPTS)]
    collector = Collector(Rows(policy, decoder, max_rows=max_rows))
    tickets: list[list[int]] = []
    for i, (prompt, sampling, count) in enumerate(asked):
        tickets.append(collector.rows.submit(prompt, sampling, range(count)))
        for _ in range(7 * i % 10):
            collector.step(1 + i % 4)
    collector.to_end()
    for (prompt, sampling, count), group in zip(asked, tickets, strict=True):
        [expected] = alone.generate([prompt], count, sampling)
        for ticket, completion in zip(group, expected, strict=True):
            assert_same(collector.completion(ticket), completion, exact=name == "compiled")


@pytest.mark.parametrize("name", list(DECODERS))
def test_a_cancelled_row_leaves_and_the_others_go_on(name: str) -> None:
    policy = replace(policy_of(), eos_ids=())
    decoder = decoder_of(name, policy)
    collector = Collector(Rows(policy, decoder, max_rows=3, positions=64))
    sampling = Sampling(max_new_tokens=30, seed=1)
    a, b = collector.rows.submit(PROMPTS[0], sampling, (4, 5))
    c, d, e = collector.rows.submit(PROMPTS[1], sampling, range(3))
    for _ in range(4):
        collector.step()
    for ticket in (a, d, e, a, 999):  # running, waiting, waiting, gone already, never there
        collector.rows.cancel(ticket)
    later = collector.rows.submit(PROMPTS[5], sampling, (2,))[0]
    collector.to_end()
    assert set(collector.reasons) == {b, c, later} and len(collector.ids[a]) < 30
    engine = NativeEngine(policy, decoder)
    for ticket, prompt, sample in ((b, PROMPTS[0], 5), (c, PROMPTS[1], 0), (later, PROMPTS[5], 2)):
        expected = engine.generate([prompt], 6, sampling)[0][sample]
        assert_same(collector.completion(ticket), expected, exact=name == "compiled")


@pytest.mark.parametrize("name", list(DECODERS))
def test_memory_of_prompts_is_given_back(name: str) -> None:
    policy = policy_of()
    rows = Rows(policy, decoder_of(name, policy), max_rows=2, positions=64)
    for number in range(12):  # many more prompts than there are numbers for
        rows.submit(PROMPTS[number % 3], Sampling(max_new_tokens=6, seed=number), range(3))
        rows.step()
    while rows.busy:
        rows.step()
    session: Any = rows._session
    assert sorted(rows._numbers) == [0, 1, 2]
    if name == "fused":
        assert session._slots == []
    if name == "cached":
        assert session._prompt_kv == {}


def test_one_step_gives_one_token_and_the_first_comes_at_once() -> None:
    policy = replace(policy_of(), eos_ids=())
    rows = Rows(policy, decoder_of("fused", policy), max_rows=4)
    (ticket,) = rows.submit(PROMPTS[0], Sampling(max_new_tokens=3))
    given = []
    while rows.busy:
        given.append(rows.step())
    assert [(d.ticket, len(d.ids), d.finish_reason) for [d] in given] == [
        (ticket, 1, None),
        (ticket, 1, None),
        (ticket, 1, "length"),
    ]
    assert rows.step() == []


def test_a_row_beyond_the_context_is_refused_and_others_run() -> None:
    policy = replace(policy_of(), max_context=32)
    rows = Rows(policy, decoder_of("fused", policy), max_rows=4)
    with pytest.raises(UserError, match=r"use at most 15 "):
        rows.submit(PROMPTS[1], Sampling(max_new_tokens=16))
    rows.submit(PROMPTS[1], Sampling(max_new_tokens=15))
    assert rows.step()
