"""The server process: a socket, uvicorn on it, a clean end."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import Any

from mathgrpo.errors import UserError

API_KEY = "MATHGRPO_API_KEY"
"""Environment variable with the key clients must send; no option: shell histories and process lists keep those."""
GRACE_S = 2
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Addresses that only this machine can reach."""


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises: UserError when the address cannot be had, or others could reach it without a key.
    """
    if host not in LOOPBACK and not os.environ.get(API_KEY):
        raise UserError(
            f"--host {host}: others could use the model; set {API_KEY} to a key that clients must send, "
            "or use 127.0.0.1"
        )
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"--port {port}: {host} cannot listen there ({error.strerror}); choose another") from None


def run_server(app: Any, listening: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; what is being answered then has GRACE_S seconds."""
    import uvicorn

    # What breaks off is the client's to see; a failure of ours is an answer, so nothing is left to log.
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=GRACE_S, server_header=False)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises the signal again at its end
    try:
        with suppress(KeyboardInterrupt), listening:
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
