"""A stand-in for a vLLM server: the routes the engine uses, over a small model that it really samples from.

python vllm_standin.py -I -c ...                                        what an environment is asked: its version
python vllm_standin.py -m vllm.entrypoints.openai.api_server OPTIONS    serve OPTIONS' model
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "0.32.0"


class StandIn:
    """The served model and the switches of the tests.

    Attributes:
        stale: take no new weights, but answer as if.
        behind: the name of a weight to keep as it is, whatever is pushed.
        digest: what to answer instead of the digest of the weights taken.
        calls: routes asked for, in order.
    """

    def __init__(self, folder: Path, *, version: str = VERSION, logprobs_mode: str = "processed_logprobs") -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from mathgrpo.models.load_policy import policy_from

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.policy = policy_from(self.model, tokenizer, device="cpu", dtype=torch.float32, name="stand-in")
        self.version, self.logprobs_mode = version, logprobs_mode
        self.stale, self.behind, self.digest, self.calls = False, "", "", list[str]()
        self._lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return the status and the JSON answer of a route."""
        route = path.split("?")[0]
        with self._lock:
            self.calls.append(route)
            if route == "/v1/completions":
                return self._completions(body)
            simple = {
                "/health": {}, "/version": {"version": self.version}, "/sleep": {}, "/wake_up": {},
                "/reset_prefix_cache": {"success": True},
                "/server_info": {"vllm_config": {"model_config": {"logprobs_mode": self.logprobs_mode}}},
            }  # fmt: skip
            if route in simple:
                return 200, simple[route]
            if route == "/collective_rpc" and body["method"] == "mathgrpo_load":
                return 200, {"results": [self._load(body["args"][0])]}
            if route == "/die":
                os._exit(9)
            return 404, {"detail": "Not Found"}

    def _load(self, path: str) -> dict[str, Any]:
        from safetensors.torch import load_file

        from mathgrpo.rollout.vllm.served.mathgrpo_vllm_worker import weights_digest

        weights = load_file(path)
        if not self.stale:
            taken = {name: weight for name, weight in weights.items() if name != self.behind}
            self.model.load_state_dict(taken, strict=False)
        return {"digest": self.digest or weights_digest(sorted(weights.items())), "tensors": len(weights)}

    def _completions(self, body: dict[str, Any]) -> tuple[int, Any]:
        import torch

        from mathgrpo.rollout.engine import NativeEngine
        from mathgrpo.rollout.hf.cached_decoder import cached_decoder
        from mathgrpo.types import Prompt, Sampling

        ids = body["prompt"]
        if len(ids) + body["max_tokens"] > self.policy.max_context:
            return 400, {"error": {"message": f"maximum context length is {self.policy.max_context} tokens"}}
        if "prompt_logprobs" in body:
            with torch.no_grad():
                logprobs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            entries = [{str(t): {"logprob": float(logprobs[i, t])}} for i, t in enumerate(ids[1:])]
            return 200, {"choices": [{"index": 0, "prompt_logprobs": [None, *entries]}]}
        assert body["ignore_eos"] and set(body["stop_token_ids"]) == set(self.policy.eos_ids)
        sampling = Sampling(
            body["max_tokens"], body["temperature"], body["top_p"], max(0, body["top_k"]), body["min_p"], body["seed"]
        )
        [rows] = NativeEngine(self.policy, cached_decoder(self.policy)).generate(
            [Prompt(tuple(ids), 0)], body["n"], sampling
        )
        return 200, {
            "choices": [
                {"index": i, "token_ids": list(row.ids), "logprobs": {"token_logprobs": list(row.logprobs)}}
                for i, row in reversed(list(enumerate(rows)))
            ]
        }


def http_server(standin: StandIn, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the stand-in on the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._reply(json.loads(text) if text else {})

        def _reply(self, body: dict[str, Any]) -> None:
            status, answer = standin.answer(self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


@contextmanager
def serving(standin: StandIn) -> Iterator[str]:
    """Serve in a thread; yield the address."""
    server = http_server(standin)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def fake_python(folder: Path, *, behaviour: str = "") -> Path:
    """Return a program that behaves as the python of a vLLM environment: asked for its version, or told to serve."""
    script = folder / f"python-{behaviour or 'good'}"
    tests = Path(__file__).resolve().parents[1]
    script.write_text(
        f"#!/bin/sh\nPYTHONPATH={os.environ['PYTHONPATH']}:{tests} STANDIN={behaviour} "
        f'exec {sys.executable} {Path(__file__).resolve()} "$@"\n'
    )
    script.chmod(0o755)
    return script


def main(arguments: list[str]) -> None:
    """Do what the arguments ask a python for."""
    behaviour = os.environ.get("STANDIN", "")
    if arguments[:2] == ["-I", "-c"]:
        print({"absent": "", "old": "0.11.2"}.get(behaviour, VERSION))
        return
    if behaviour == "crash":
        print("Traceback (most recent call last):\nRuntimeError: no such device", flush=True)
        sys.exit(1)
    options = dict(zip(arguments[2::2], arguments[3::2], strict=False))
    standin = StandIn(Path(options["--model"]))
    print("serving", os.getpid(), flush=True)
    http_server(standin, int(options["--port"])).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
