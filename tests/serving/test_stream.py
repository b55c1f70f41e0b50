"""What `solve` and `serve` stream is what the engine would have drawn, by whichever decoder."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config.recipe import ModelSection
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.models import Policy, load_policy, policy_from
from mathgrpo.rollout import build_decoder, build_engine
from mathgrpo.rollout.c.c_decoder import compiled_decoder
from mathgrpo.rollout.decoder import Decoder
from mathgrpo.rollout.hf.cached_decoder import cached_decoder
from mathgrpo.rollout.hf.grouped_decoder import grouped_decoder
from mathgrpo.rollout.torch_ops.torch_decoder import fused_decoder
from mathgrpo.serving import stream
from mathgrpo.serving.stream import PLAIN, CompletionText, Streamer
from mathgrpo.types import Problem, Prompt, Sampling

ASKED = Problem("What is 2 + 2?", "4")


def policy_of(architecture: str = "qwen2") -> Policy:
    return policy_from(tiny_model(architecture), tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")


def drawn(streamer: Streamer, prompt: Prompt, sampling: Sampling, count: int = 1) -> list[tuple[int, ...]]:
    rows = streamer.rows(count)
    found: dict[int, list[int]] = {ticket: [] for ticket in rows.submit(prompt, sampling, range(count))}
    while rows.busy:
        for part in rows.step(3):
            found[part.ticket] += part.ids
    return [tuple(ids) for ids in found.values()]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("more", [{"temperature": 0.0}, {"temperature": 1.0}, {"top_p": 0.8, "top_k": 9}])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_streamed_tokens_equal_the_engines(architecture: str, more: dict[str, Any], native: bool) -> None:
    policy = policy_of(architecture)
    prompt = encode_prompt(policy.tokenizer, ASKED, get_format("boxed"))
    sampling = Sampling(max_new_tokens=24, seed=5, **more)
    [[completion]] = build_engine(policy).generate([prompt], 1, sampling)
    streamer = Streamer(policy, native=native)
    assert streamer.reason.startswith("compiled decoder" if native and architecture == "qwen2" else PLAIN)
    assert drawn(streamer, prompt, sampling) == [completion.ids]
    tokens: list[int] = []
    text = "".join(streamer.text(prompt, sampling, tokens))
    ends = completion.ids[:-1] if completion.finish_reason == "eos" else completion.ids
    assert tuple(tokens) == completion.ids
    assert text == policy.tokenizer.decode(ends)


@pytest.fixture(scope="module")
def starter() -> Policy:
    return load_policy(ModelSection(path="starter"), "cpu", train=False)


QUESTIONS = [
    f"Tom has {a} apples and buys {b} more. He eats {a - b}. How many has he?" for a in (12, 31, 47) for b in (3, 8)
]


@pytest.mark.parametrize("decoder", [compiled_decoder, fused_decoder])
def test_the_starters_greedy_answers_are_those_of_its_own_forward_pass(
    starter: Policy, decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "build_decoder", lambda policy, *, frozen: (decoder(policy, frozen=frozen), "chosen"))
    fast, plain = Streamer(starter), Streamer(starter, native=False)
    sampling = Sampling(max_new_tokens=96, temperature=0.0)
    for question in QUESTIONS:
        prompt = encode_prompt(starter.tokenizer, Problem(question, ""), get_format("xml"))
        assert drawn(fast, prompt, sampling) == drawn(plain, prompt, sampling)


@pytest.mark.parametrize("decoder", [compiled_decoder, fused_decoder])
def test_frozen_weights_are_laid_out_once_and_again_for_longer_texts(decoder: Any) -> None:
    policy = policy_of()
    prompts = [Prompt(tuple(range(5, 5 + n)), key=n) for n in (3, 40, 12)]
    sampling = Sampling(max_new_tokens=20, temperature=0.0)
    frozen, fresh = decoder(policy, frozen=True), decoder(policy)

    def weights(of: Decoder, positions: int) -> Any:
        session: Any = of.open(max_rows=1, positions=positions)
        return session._model

    first = weights(frozen, 60)
    assert weights(frozen, 300) is first and weights(frozen, 5000) is not first
    assert weights(fresh, 60) is not weights(fresh, 60)
    alone = [drawn(Streamer(policy, native=False), prompt, sampling)[0] for prompt in prompts]
    streamer = Streamer(policy)
    assert [drawn(streamer, prompt, sampling)[0] for prompt in prompts] == alone


@pytest.mark.parametrize("kind", ["compiled", "fused", "cache", "grouped"])
def test_whatever_runs_beside_them_completions_are_the_engines(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of all kinds come and go, more of them than rows; some are cancelled on the way."""
    policy, rng = policy_of("qwen2" if kind in ("compiled", "fused") else "gpt2"), random.Random(4)
    decoders: dict[str, Any] = {"compiled": compiled_decoder, "fused": fused_decoder, "cache": cached_decoder}
    decoder = decoders.get(kind, grouped_decoder)(policy)
    monkeypatch.setattr(stream, "build_decoder", lambda *_, **__: (decoder, "chosen"))
    rows, asked, found = Streamer(policy).rows(5), [], {}
    cancelled: set[int] = set()
    while len(asked) < 25 or rows.busy:
        if len(asked) < 25 and rng.random() < 0.4:
            prompt = Prompt(
                tuple(rng.randrange(5, 60) for _ in range(rng.choice([2, 30, 300]))), rng.randrange(1 << 40)
            )
            sampling = Sampling(
                rng.choice([1, 5, 20]), rng.choice([0.0, 0.7, 1.0]), top_p=rng.choice([1.0, 0.9]), seed=rng.randrange(9)
            )
            tickets = rows.submit(prompt, sampling, range(rng.choice([1, 3, 8])))
            asked.append((prompt, sampling, tickets))
            found |= {ticket: [] for ticket in tickets}
        if asked and rng.random() < 0.1:
            chosen = rng.choice(rng.choice(asked)[2])
            rows.cancel(chosen)
            cancelled.add(chosen)
        for part in rows.step(rng.choice([1, 8])):
            assert part.ticket not in cancelled
            found[part.ticket] += part.ids
    engine, whole = build_engine(policy), 0
    for prompt, sampling, tickets in asked:
        [completions] = engine.generate([prompt], len(tickets), sampling)
        for ticket, completion in zip(tickets, completions, strict=True):
            ids = tuple(found[ticket])
            assert ids == (completion.ids[: len(ids)] if ticket in cancelled else completion.ids)
            whole += ids == completion.ids
    assert whole > 50 and cancelled


@given(
    st.lists(st.text("abE ND", max_size=6).filter(bool), min_size=1, max_size=8),
    st.sampled_from([("END",), ("aa", "ab"), ()]),
)
def test_stop_texts_cut_at_the_first_wherever_pieces_end(parts: list[str], stops: tuple[str, ...]) -> None:
    whole = "".join(parts)
    letters: Any = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)), eos_ids=())
    text = CompletionText(letters, len(whole), stops)
    out = "".join(text.push([ord(char) for char in part]) for part in parts)
    # The reference: the shortest beginning of the text that ends with a stop text, without it.
    expected, drawn = whole, len(whole)
    for end in range(len(whole) + 1):
        ended = [s for s in stops if whole[:end].endswith(s)]
        if ended:
            expected, drawn = whole[: end - max(map(len, ended))], end
            break
    assert (out, text.text, text.num_tokens) == (expected, expected, drawn)
    assert text.finish == ("stop" if drawn < len(whole) or expected != whole else "length")


def test_a_completions_text_ends_with_its_stop_text_its_end_token_or_the_limit() -> None:
    policy, sampling = policy_of(), Sampling(40, seed=3)
    prompt = Prompt(tuple(range(10, 30)), key=77)
    [group] = build_engine(policy).generate([prompt], 4, sampling)
    for completion in group:
        plain = policy.tokenizer.decode([token for token in completion.ids if token not in policy.eos_ids])
        for most, stop in ((40, ""), (40, plain[3:5]), (7, "")):
            pieces, whole = (CompletionText(policy, most, (stop,) if stop else (), whole=w) for w in (False, True))
            told = "".join(pieces.push([token]) for token in completion.ids)
            for start in range(0, most, 8):
                whole.push(completion.ids[start : min(most, start + 8)])
            shown = policy.tokenizer.decode(completion.ids[:7]) if most == 7 else plain
            assert told == pieces.text == whole.text == (shown.partition(stop)[0] if stop else shown)
            ended = stop or (completion.finish_reason == "eos" and len(completion.ids) <= most)
            assert pieces.finish == whole.finish == ("stop" if ended else "length")
            assert pieces.num_tokens == whole.num_tokens <= most


def test_between_tokens_the_caller_is_not_in_inference_mode() -> None:
    pieces = Streamer(policy_of()).text(Prompt((7, 8, 9), key=1), Sampling(max_new_tokens=4, temperature=0.0), [])
    next(pieces)
    weight = torch.ones(2, requires_grad=True)
    (weight * 2).sum().backward()
    assert weight.grad is not None and not torch.is_inference_mode_enabled()
    pieces.close()


def test_without_room_for_a_second_copy_the_model_itself_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from mathgrpo.rollout import choose_engine

    monkeypatch.setattr(choose_engine, "free_bytes", lambda device: 1000)
    streamer = Streamer(policy_of())
    assert streamer.reason.startswith(f"{PLAIN}; a second copy of the weights needs ")
    monkeypatch.setattr(choose_engine, "free_bytes", lambda device: None)
    assert build_decoder(policy_of())[0] is not None


def test_solve_decodes_plainly_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from mathgrpo.cli import main

    policy = policy_of()
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    said, asked = [], []
    plain = Streamer.__init__

    def noted(self: Streamer, policy: Policy, *, native: bool = True) -> None:
        asked.append(native)
        plain(self, policy, native=native)

    monkeypatch.setattr(Streamer, "__init__", noted)
    for flags in ([], ["--plain"]):
        monkeypatch.setattr(sys, "argv", ["mathgrpo", "solve", str(tmp_path), "2+2?", "--max-new-tokens", "20", *flags])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        said.append(capsys.readouterr().out)
    assert asked == [True, False] and said[0] == said[1]


def metaspace_tokenizer() -> Any:
    """A tokenizer as Llama 2 has it: words begin with a mark for their space, unknown characters are bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcé12", "▁a", "▁b1", "ab", "<eos>"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


METASPACE = metaspace_tokenizer()


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@given(data=st.data())
def test_the_pieces_of_a_text_are_the_text(kind: str, starter: Policy, data: st.DataObject) -> None:
    """Whatever the tokens: half characters, bytes that are none, spaces at the beginning."""
    tokenizer = starter.tokenizer if kind == "bytes" else METASPACE
    policy = replace(starter, tokenizer=tokenizer, eos_ids=(tokenizer.eos_token_id,))
    # Bytes that are no character are read otherwise by the metaspace decoder the more of them there are.
    first = 256 if kind == "metaspace" else 0
    ids = st.integers(first, len(tokenizer) - 1).filter(lambda i: i not in policy.eos_ids).map(lambda i: [i])
    if kind == "metaspace":
        ids |= st.characters(codec="utf-8").map(lambda char: [*char.encode()])
    tokens = [token for part in data.draw(st.lists(ids, max_size=40)) for token in part]
    for ids in (tokens, [*tokens, policy.eos_ids[0]]):
        one_by_one, in_parts = (CompletionText(policy, len(ids)) for _ in range(2))
        size = data.draw(st.integers(1, 9))
        assert "".join(one_by_one.push([token]) for token in ids) == tokenizer.decode(tokens)
        assert "".join(in_parts.push(ids[i : i + size]) for i in range(0, len(ids), size)) == tokenizer.decode(tokens)
        assert not ids or one_by_one.finish == in_parts.finish == ("length" if ids is tokens else "stop")
