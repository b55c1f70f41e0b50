"""Text in pieces: stop texts, samples side by side, cancelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import tiny_policy
from mathgrpo.rollout import build_engine, completion_text
from mathgrpo.serving.pieces import Job, Piece, StopText, generate_pieces
from mathgrpo.serving.stream import Streamer
from mathgrpo.types import Prompt, Sampling

PROMPT = Prompt(tuple(range(10, 30)), key=77)


def never() -> bool:
    return False


def texts(pieces: list[Piece], samples: int) -> list[str]:
    return ["".join(piece.text for piece in pieces if piece.sample == i) for i in range(samples)]


@given(st.lists(st.text("abE ND", max_size=6), max_size=8), st.sampled_from([("END",), ("aa", "ab"), ()]))
def test_stop_texts_cut_at_the_first_wherever_pieces_end(parts: list[str], stops: tuple[str, ...]) -> None:
    stop, out = StopText(stops), ""
    for part in parts:
        if not stop.found:
            out += stop.push(part)
    out += stop.rest()
    whole = "".join(parts)
    # The reference: the shortest beginning of the text that ends with a stop text, without it.
    expected = whole
    for end in range(len(whole) + 1):
        ended = [s for s in stops if whole[:end].endswith(s)]
        if ended:
            expected = whole[: end - max(map(len, ended))]
            break
    if len(stops) < 2:
        assert out == expected
    assert whole.startswith(out) and not any(s in out for s in stops)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_several_samples_at_once_are_the_engines(temperature: float, native: bool) -> None:
    policy = tiny_policy()
    streamer = Streamer(policy, native=native)
    sampling = Sampling(max_new_tokens=40, temperature=temperature, seed=3)
    [group] = build_engine(policy).generate([PROMPT], 5, sampling)
    steps = list(streamer.samples(PROMPT, sampling, 5))
    drawn = [tuple(step[i] for step in steps if step[i] is not None) for i in range(5)]
    assert drawn == [completion.ids for completion in group]
    if temperature:
        assert len({len(ids) for ids in drawn}) > 1, "the samples should end at different places"
    pieces = list(generate_pieces(streamer, Job(PROMPT, sampling, 5), never))
    assert texts(pieces, 5) == [completion_text(policy, completion) for completion in group]
    ends = {piece.sample: piece for piece in pieces if piece.finish}
    assert [ends[i].finish for i in range(5)] == ["stop" if c.finish_reason == "eos" else "length" for c in group]
    assert [ends[i].tokens for i in range(5)] == [len(completion.ids) for completion in group]


def test_a_stop_text_ends_its_own_sample_only() -> None:
    streamer, sampling = Streamer(tiny_policy()), Sampling(max_new_tokens=40, seed=3)
    plain = texts(list(generate_pieces(streamer, Job(PROMPT, sampling, 4), never)), 4)
    stop = plain[1][3:5]
    pieces = list(generate_pieces(streamer, Job(PROMPT, sampling, 4, (stop,)), never))
    assert texts(pieces, 4) == [text.partition(stop)[0] for text in plain]
    [end] = [piece for piece in pieces if piece.sample == 1 and piece.finish]
    assert end.finish == "stop" and end.tokens == len(plain[1].partition(stop)[0]) + len(stop)


def test_cancelling_stops_before_the_next_token() -> None:
    asked = 0

    def after_three() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    pieces = list(generate_pieces(Streamer(tiny_policy()), Job(PROMPT, Sampling(40, seed=3)), after_three))
    assert asked == 4 and max(piece.tokens for piece in pieces) <= 3 and all(not piece.finish for piece in pieces)
