"""The server as its clients see it: OpenAI's own client, and raw HTTP where that would not misbehave."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_server import serving, tiny_policy
from mathgrpo.cli.serve_command import API_KEY, open_socket
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.formats.conversation import conversation_prompt, text_prompt
from mathgrpo.models import Policy
from mathgrpo.rollout import build_engine, completion_text
from mathgrpo.serving.stream import Streamer
from mathgrpo.types import Completion, Problem, Prompt, Sampling

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
openai = pytest.importorskip("openai")

QUESTION = "What is 2 + 2?"
ASK: list[Any] = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture(scope="module")
def base(policy: Policy) -> Iterator[str]:
    with serving(policy) as address:
        yield address


@pytest.fixture(scope="module")
def client(base: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base, api_key="unused", max_retries=0)


def drawn(policy: Policy, prompt: Prompt, samples: int, **sampling: Any) -> list[Completion]:
    """What the training engine draws."""
    return build_engine(policy).generate([prompt], samples, Sampling(**sampling))[0]


def xml_prompt(policy: Policy) -> Prompt:
    return encode_prompt(policy.tokenizer, Problem(QUESTION, ""), get_format("xml"))


def test_the_one_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "mathgrpo"
    with pytest.raises(openai.NotFoundError, match="'other' is not served here; there is 'tiny'"):
        client.models.retrieve("other")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_answer_is_the_engines_and_solves(policy: Policy, client: openai.OpenAI, temperature: float) -> None:
    sampling = {"max_new_tokens": 30, "temperature": temperature, "top_p": 0.95, "seed": 11}
    [expected] = drawn(policy, xml_prompt(policy), 1, **sampling)
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=30, temperature=temperature, top_p=0.95, seed=11
    )
    [choice] = answer.choices
    assert choice.message.content == completion_text(policy, expected)
    assert choice.message.content == "".join(Streamer(policy).text(xml_prompt(policy), Sampling(**sampling), []))
    assert choice.finish_reason == ("stop" if expected.finish_reason == "eos" else "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(xml_prompt(policy).ids)
    assert answer.usage.completion_tokens == len(expected.ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "messages": ASK, "max_completion_tokens": 30, "seed": 4, "n": 3}
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    texts, ends = ["", "", ""], {}
    for chunk in chunks[:-1]:
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices] and len(set(texts)) == 3
    assert [ends[i] for i in range(3)] == [choice.finish_reason for choice in whole.choices]
    assert not chunks[-1].choices and chunks[-1].usage == whole.usage
    assert len(chunks) > 3 + 3 * 3, "text should come while it is drawn"


def test_the_last_event_is_done(base: str) -> None:
    body = {"messages": ASK, "stream": True, "max_tokens": 3, "temperature": 0}
    with httpx.stream("POST", f"{base}/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert json.loads(lines[0][6:])["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_the_default_seed_changes_and_a_given_one_repeats(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> str | None:
        return (
            client.chat.completions.create(model="tiny", messages=ASK, max_tokens=30, **more).choices[0].message.content
        )

    assert ask(seed=1) == ask(seed=1) != ask(seed=2)
    assert len({ask() for _ in range(4)}) > 1


def test_a_stop_text_is_not_in_the_answer(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "messages": ASK, "max_tokens": 30, "seed": 4}
    text = client.chat.completions.create(**settings).choices[0].message.content or ""
    [stopped] = client.chat.completions.create(**settings, stop=[text[5:8], "never"]).choices
    assert stopped.message.content == text.partition(text[5:8])[0] and stopped.finish_reason == "stop"


def test_ones_own_system_message_replaces_the_formats(policy: Policy, client: openai.OpenAI) -> None:
    turns: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    answer = client.chat.completions.create(model="tiny", messages=turns, max_tokens=5, temperature=0)
    text = policy.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert not hasattr(answer.choices[0].message, "answer")
    ours = client.chat.completions.create(model="tiny", messages=turns[1:], max_tokens=5, temperature=0)
    assert ours.usage is not None and ours.usage.prompt_tokens > answer.usage.prompt_tokens + 50
    assert ours.choices[0].message.model_extra is not None and "answer" in ours.choices[0].message.model_extra


def test_a_conversation_keeps_its_turns(policy: Policy, client: openai.OpenAI) -> None:
    turns: Any = [
        *ASK,
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
    ]
    answer = client.chat.completions.create(model="tiny", messages=turns, max_tokens=2, temperature=0)
    first = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2, temperature=0)
    assert answer.usage is not None and first.usage is not None
    added = "4<|end|><|user|>Sure?<|end|><|assistant|>"
    assert answer.usage.prompt_tokens - first.usage.prompt_tokens == len(policy.tokenizer(added)["input_ids"])


def test_text_completions_take_the_prompt_as_it_is(policy: Policy, client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="1+1=", max_tokens=8, temperature=0)
    ids = tuple(policy.tokenizer("1+1=")["input_ids"])
    [expected] = drawn(policy, Prompt(ids, key=1), 1, max_new_tokens=8, temperature=0.0)
    assert answer.choices[0].text == completion_text(policy, expected)
    pieces = client.completions.create(model="tiny", prompt="1+1=", max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == answer.choices[0].text


@pytest.mark.parametrize(
    ("body", "status", "words", "param"),
    [
        ("{", 400, "not JSON", None),
        ("[]", 400, "not a JSON object", None),
        ("[" * 100_000, 400, "nested too deeply", None),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "messages.0.content: ", "messages.0.content"),
        ('{"\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}', 400, "", None),
        ({}, 400, "messages: missing", "messages"),
        ({"messages": []}, 400, "messages: ", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "role: input should be 'system'", "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "end with one of role user", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "only parts of type text", None),
        ({"messages": ASK, "temperature": -1}, 400, "temperature: input should be greater", "temperature"),
        ({"messages": ASK, "temperature": "1"}, 400, "temperature: ", "temperature"),
        ({"messages": ASK, "max_tokens": 0}, 400, "max_tokens: ", "max_tokens"),
        ({"messages": ASK, "max_tokens": 100000}, 400, "context 1024; use at most", "max_tokens"),
        ({"messages": ASK, "n": 1000}, 400, "n: ", "n"),
        ({"messages": ASK, "stop": ["a"] * 5}, 400, "stop: at most 4 texts", "stop"),
        ({"messages": ASK, "tools": []}, 400, "tools: no such parameter here; there are: model, temp", "tools"),
        ({"messages": ASK, "logprobs": True}, 400, "logprobs: not served here", "logprobs"),
        ({"messages": ASK, "model": "gpt"}, 404, "'gpt' is not served here", "model"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, 400, "shorten it", "messages"),
        ({"messages": [{"role": "user", "content": "x" * (5 << 20)}]}, 413, "shorten it", None),
    ],
)  # fmt: skip
def test_a_bad_request_is_one_clear_message(base: str, body: Any, status: int, words: str, param: str | None) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    response = httpx.post(f"{base}/chat/completions", content=content)
    error = response.json()["error"]
    assert response.status_code == status and words in error["message"] and "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


def test_null_is_not_given(base: str) -> None:
    """Clients write null for what they leave out, known here or not."""
    body = {"messages": ASK, "max_tokens": 2, "tools": None, "stop": None, "temperature": None, "logprobs": None}
    assert httpx.post(f"{base}/chat/completions", json=body).status_code == 200


def test_routes_that_are_not_there_speak_json_too(base: str) -> None:
    for response, status in ((httpx.get(f"{base}/nothing"), 404), (httpx.get(f"{base}/chat/completions"), 405)):
        assert response.status_code == status and "/v1/" in response.json()["error"]["message"]


def test_another_host_name_is_refused(base: str) -> None:
    assert httpx.get(f"{base}/models", headers={"host": "evil.example:80"}).status_code == 403
    assert httpx.get(f"{base}/models", headers={"host": "localhost:1"}).status_code == 200


def test_a_key_is_asked_for_where_there_is_one(policy: Policy) -> None:
    with serving(policy, api_key="secret") as base:
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=base, api_key="guess", max_retries=0).models.list()
        assert openai.OpenAI(base_url=base, api_key="secret", max_retries=0).models.list().data


def test_other_machines_need_a_key_and_a_used_port_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY, raising=False)
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0: others could use the model; set MATHGRPO_API_KEY"):
        open_socket("0.0.0.0", 0)
    with open_socket("127.0.0.1", 0) as taken, pytest.raises(UserError, match=r"--port \d+: .*choose another"):
        open_socket("127.0.0.1", taken.getsockname()[1])
    monkeypatch.setenv(API_KEY, "secret")
    open_socket("0.0.0.0", 0).close()


def test_a_begun_answer_is_continued_and_the_template_is_told() -> None:
    teller = tiny_policy()
    teller.tokenizer.chat_template += (
        "{% if add_generation_prompt and thinks is defined %}<think>{{ thinks }}{% endif %}"
    )
    with serving(teller) as address:
        begun = [*ASK, {"role": "assistant", "content": "<reasoning>"}]
        for sent, told in ((begun, {}), (ASK, {"thinks": "hm"})):
            body = {"messages": sent, "max_tokens": 3, "temperature": 0, "chat_template_kwargs": told}
            answer = httpx.post(f"{address}/chat/completions", json=body, timeout=60).json()
            prompt = conversation_prompt(teller.tokenizer, sent, get_format("xml"), told)
            assert teller.decode(prompt.ids).endswith("<reasoning>" if sent is begun else "<|assistant|><think>hm")
            assert answer["usage"]["prompt_tokens"] == len(prompt.ids)
            [expected] = drawn(teller, prompt, 1, max_new_tokens=3, temperature=0.0)
            assert answer["choices"][0]["message"]["content"] == completion_text(teller, expected)
        wrong = httpx.post(
            f"{address}/chat/completions", json={"messages": ASK, "chat_template_kwargs": {"thoughts": 1}}
        )
        assert wrong.status_code == 400 and "chat_template_kwargs.thoughts" in wrong.json()["error"]["message"]


def test_a_model_without_chat_template_answers_too() -> None:
    bare = tiny_policy(chat_template=False)
    with serving(bare) as base:
        client = openai.OpenAI(base_url=base, api_key="unused", max_retries=0)
        answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=4, temperature=0)
        [expected] = drawn(bare, xml_prompt(bare), 1, max_new_tokens=4, temperature=0.0)
        assert answer.choices[0].message.content == completion_text(bare, expected)


@pytest.fixture
def slow() -> Policy:
    """A model that takes 20 ms for a token, and long answers: greedy, it never ends."""
    policy = tiny_policy()
    policy.model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    return policy


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_generation(slow: Policy, stream: bool) -> None:
    body = {"messages": ASK, "stream": stream, "max_tokens": 800, "n": 8}  # 16 s; one of 8 samples goes on for long
    with serving(slow, native=False) as base:
        health = base.replace("/v1", "/health")
        with (
            httpx.Client() as leaving,
            pytest.raises(httpx.ReadTimeout)
            if not stream
            else leaving.stream("POST", f"{base}/chat/completions", json=body) as response,
        ):
            if stream:
                next(response.iter_lines())
            else:
                leaving.post(f"{base}/chat/completions", json=body, timeout=0.5)
        left = time.monotonic()
        while httpx.get(health).json()["requests"]:
            assert time.monotonic() - left < 5
            time.sleep(0.05)
        # The thread is free again, too: another request is answered long before the first would have ended.
        assert (
            httpx.post(f"{base}/chat/completions", json={"messages": ASK, "max_tokens": 1}, timeout=5).status_code
            == 200
        )


def test_requests_at_the_same_time_are_drawn_together_and_each_as_if_alone(policy: Policy, base: str) -> None:
    """64 clients: greedy and drawn, short and long, one and several completions; each gets what the engine draws."""
    asked = [
        {"prompt": f"{i}+{i}=", "max_tokens": 5 + i % 30, "temperature": i % 3 / 2, "seed": i, "n": 1 + i % 2}
        for i in range(64)
    ]  # fmt: skip
    found: dict[int, list[str]] = {}

    def ask(i: int) -> None:
        answer = httpx.post(f"{base}/completions", json=asked[i], timeout=60).json()
        found[i] = [choice["text"] for choice in answer["choices"]]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, body in enumerate(asked):
        text = str(body["prompt"])
        prompt = text_prompt(policy.tokenizer, text)
        sampling = {"max_new_tokens": body["max_tokens"], "temperature": body["temperature"], "seed": i}
        assert found[i] == [completion_text(policy, one) for one in drawn(policy, prompt, 1 + i % 2, **sampling)]


def test_a_failing_generation_is_an_error_not_a_hang(policy: Policy) -> None:
    broken = tiny_policy()

    def fail(*_: Any) -> None:
        raise RuntimeError("device lost\nmore")

    with serving(broken, native=False) as base:
        broken.model.register_forward_pre_hook(fail)
        response = httpx.post(f"{base}/chat/completions", json={"messages": ASK})
        assert response.status_code == 500 and "RuntimeError: device lost" in response.json()["error"]["message"]
        with httpx.stream("POST", f"{base}/chat/completions", json={"messages": ASK, "stream": True}) as streamed:
            last = [line for line in streamed.iter_lines() if line][-1]
        assert json.loads(last[6:])["error"]["type"] == "server_error"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_what_solve_answers_and_ends_cleanly(tmp_path: Path, policy: Policy, signum: int) -> None:
    policy.model.save_pretrained(tmp_path / "tiny")
    policy.tokenizer.save_pretrained(tmp_path / "tiny")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mathgrpo", "serve", tmp_path / "tiny", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r'serving "tiny" at (http://127\.0\.0\.1:\d+/v1) \(format xml\)', line)
        assert found, line
        assert process.stdout.readline().startswith("decoding: compiled decoder (")
        body = {"messages": ASK, "max_tokens": 12, "temperature": 0}
        answer = httpx.post(f"{found[1]}/chat/completions", json=body, timeout=60).json()
        if signum == signal.SIGINT:
            solved = subprocess.run(
                [sys.executable, "-m", "mathgrpo", "solve", tmp_path / "tiny", QUESTION, "--max-new-tokens", "12",
                 "--jsonl", tmp_path / "solved.jsonl"],
                env=environment, check=True, capture_output=True,
            )  # fmt: skip
            assert solved.returncode == 0
            row = json.loads((tmp_path / "solved.jsonl").read_text())
            assert row["completion"] == answer["choices"][0]["message"]["content"]
        process.send_signal(signum)
        out, err = process.communicate(timeout=90)
        assert (process.returncode, out, err) == (0, "stopped\n", "")
    finally:
        process.kill()
        process.communicate()
