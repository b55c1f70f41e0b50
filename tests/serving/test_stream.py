"""What `solve` and `serve` stream is what the engine would have drawn, by whichever decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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
from mathgrpo.rollout.c.c_decoder import CompiledDecoder
from mathgrpo.rollout.torch_ops.torch_decoder import FusedDecoder
from mathgrpo.serving import stream
from mathgrpo.serving.stream import PLAIN, Detokenizer, Streamer
from mathgrpo.types import Problem, Prompt, Sampling

ASKED = Problem("What is 2 + 2?", "4")


def policy_of(architecture: str = "qwen2") -> Policy:
    return policy_from(tiny_model(architecture), tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")


def drawn(streamer: Streamer, prompt: Prompt, sampling: Sampling, count: int = 1) -> list[tuple[int, ...]]:
    steps = list(streamer.samples(prompt, sampling, count))
    return [tuple(step[i] for step in steps if step[i] is not None) for i in range(count)]  # type: ignore[misc]


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


@pytest.mark.parametrize("decoder", [CompiledDecoder, FusedDecoder])
def test_the_starters_greedy_answers_are_those_of_its_own_forward_pass(
    starter: Policy, decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "build_decoder", lambda policy, *, frozen: (decoder(policy, frozen=frozen), "chosen"))
    fast, plain = Streamer(starter), Streamer(starter, native=False)
    sampling = Sampling(max_new_tokens=96, temperature=0.0)
    for question in QUESTIONS:
        prompt = encode_prompt(starter.tokenizer, Problem(question, ""), get_format("xml"))
        assert drawn(fast, prompt, sampling) == drawn(plain, prompt, sampling)


@pytest.mark.parametrize("decoder", [CompiledDecoder, FusedDecoder])
def test_frozen_weights_are_laid_out_once_and_again_for_longer_texts(decoder: Any) -> None:
    policy = policy_of()
    prompts = [Prompt(tuple(range(5, 5 + n)), key=n) for n in (3, 40, 12)]
    sampling = Sampling(max_new_tokens=20, temperature=0.0)
    frozen = decoder(policy, frozen=True)
    first = frozen._model(60)
    assert frozen._model(300) is first and frozen._model(5000) is not first
    assert decoder(policy)._model(60) is not decoder(policy)._model(60)
    # One session after another, and two at once, on the same weights: each as if it were alone.
    alone = [drawn(Streamer(policy, native=False), prompt, sampling)[0] for prompt in prompts]
    streamer = Streamer(policy)
    assert [drawn(streamer, prompt, sampling)[0] for prompt in prompts] == alone
    pairs = zip(streamer.samples(prompts[0], sampling, 1), streamer.samples(prompts[1], sampling, 1), strict=True)
    both = list(pairs)
    assert [tuple(step[i][0] for step in both) for i in (0, 1)] == alone[:2]


def test_between_tokens_the_caller_is_not_in_inference_mode() -> None:
    policy = policy_of()
    steps = Streamer(policy).samples(Prompt((7, 8, 9), key=1), Sampling(max_new_tokens=4, temperature=0.0), 1)
    next(steps)
    weight = torch.ones(2, requires_grad=True)
    (weight * 2).sum().backward()
    assert weight.grad is not None and not torch.is_inference_mode_enabled()
    steps.close()


def test_without_room_for_a_second_copy_the_model_itself_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from mathgrpo.rollout import engine

    monkeypatch.setattr(engine, "free_bytes", lambda device: 1000)
    streamer = Streamer(policy_of())
    assert streamer.reason.startswith(f"{PLAIN}; a second copy of the weights needs ")
    monkeypatch.setattr(engine, "free_bytes", lambda device: None)
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
    detokenizer = Detokenizer(policy)
    pieces = [detokenizer.push(token) for token in tokens]
    assert "".join([*pieces, detokenizer.rest()]) == tokenizer.decode(tokens)
    ended = Detokenizer(policy)
    pieces = [ended.push(token) for token in [*tokens, policy.eos_ids[0]]]
    assert "".join([*pieces, ended.rest()]) == tokenizer.decode(tokens) and ended.ended
