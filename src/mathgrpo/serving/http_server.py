"""The server process: a socket, uvicorn on it, a clean end."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

from mathgrpo.errors import UserError

API_KEY = "MATHGRPO_API_KEY"
"""Environment variable with the key clients must send; no option: shell histories and process lists keep those."""
GRACE_S = 3
"""Seconds that open connections get after Ctrl-C."""


def require_libraries() -> None:
    """Return when what the server is built on is installed.

    Raises: UserError that says what to install.
    """
    from importlib.util import find_spec

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f'serve: needs {" and ".join(missing)}; run: pip install "mathgrpo[serve]"')


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises: UserError when the address cannot be had, or others could reach it without a key.
    """
    if not is_loopback(host) and not os.environ.get(API_KEY):
        raise UserError(
            f"--host {host}: others could use the model; set {API_KEY} to a key that clients must send, "
            "or use 127.0.0.1"
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], found[1])
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(found[4])
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise UserError(f"--port {port}: {host} cannot listen there ({error.strerror}); choose another") from None
    return listening


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Return the names a client may use; any where the server is open to others, who have a key."""
    return ("localhost", "127.0.0.1", "[::1]") if is_loopback(host) else ()


def address(listening: socket.socket) -> str:
    """Return the base address of the API."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def run_server(app: Any, listening: socket.socket, stop: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. stop is called then, before open connections are waited for."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            stop()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S, server_header=False
    )
    before = signal.signal(signal.SIGTERM, _interrupt)  # uvicorn raises the signal again when it has shut down
    try:
        Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        listening.close()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
