"""A real server on a free port, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.formats import get_format
from mathgrpo.models import Policy, policy_from
from mathgrpo.serving.stream import Streamer


def tiny_policy(**tokenizer: Any) -> Policy:
    return policy_from(tiny_model(), tiny_tokenizer(**tokenizer), device="cpu", dtype=torch.float32, name="tiny")


@contextmanager
def serving(policy: Policy, *, api_key: str = "", fmt: str = "xml", native: bool = True) -> Iterator[str]:
    """Serve a policy while entered; the value is the base address."""
    import uvicorn

    from mathgrpo.cli.serve_command import open_socket
    from mathgrpo.serving.routes import Service, Worker, build_app

    listening = open_socket("127.0.0.1", 0)
    worker = Worker(Streamer(policy, native=native))
    service = Service(policy, get_format(fmt), worker, max_new_tokens=24, local=True, api_key=api_key)
    server = uvicorn.Server(uvicorn.Config(build_app(service), log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    try:
        for _ in range(1000):
            if server.started:
                break
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
