"""A vLLM server of our own on the loopback address: started, watched, restarted once, ended with us."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError, named
from mathgrpo.rollout.vllm.backend import ServerLost
from mathgrpo.rollout.vllm.client import Client
from mathgrpo.rollout.vllm.server_command import Launch, server_command, server_environment
from mathgrpo.rollout.vllm.versions import require_tested

_GUARD = Path(__file__).with_name("guard.py")
_LOG_LINES, _LAST_LINES, _LOG_WIDTH = 300, 3, 160
_CAUSE = re.compile(r"\w(Error|Exception): \S")
_RESTARTS = 1


class OwnServer(Client):
    """The server process, and the client that speaks with it."""

    def __init__(self, launch: Launch, section: VllmSection) -> None:
        self._launch, self._section, self._restarts_left = launch, section, _RESTARTS
        self._log = launch.folder / "vllm.log"
        self._start()

    def restart(self) -> bool:
        if not self._restarts_left:
            return False
        self._restarts_left -= 1
        self.close()
        self._start()
        return True

    def last_words(self) -> str:
        """Return the first error among the last lines of the log, and how it ends, joined by " | "."""
        with suppress(OSError):
            text = self._log.read_text(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()][-_LOG_LINES:]
            causes = [line for line in lines[:-_LAST_LINES] if _CAUSE.search(line)][:1]
            return " | ".join(line[-_LOG_WIDTH:] for line in causes + lines[-_LAST_LINES:])
        return ""

    def keep_log(self, path: str) -> None:
        """Let the guard go on with the log in this file."""
        assert self._process.stdin is not None
        with suppress(OSError):  # the guard is gone, and the log with it stays where it is
            self._process.stdin.write(f"log {Path(path).absolute()}\n".encode())
            self._process.stdin.flush()
            self._log = Path(path).absolute()

    def close(self) -> None:
        """End the server and wait for it."""
        _end(self._process)

    def _start(self) -> None:
        """Start the server and wait until it is ready.

        Raises: UserError with the end of its log when it ends first or takes too long.
        """
        port, key = _free_port(), secrets.token_hex(16)
        command = server_command(self._launch, self._section, port)
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_GUARD), str(self._launch.folder), str(self._log), *command],
            stdin=subprocess.PIPE, env=server_environment(self._launch, key), start_new_session=True,
        )  # fmt: skip
        weakref.finalize(self, _end, self._process)
        super().__init__(f"http://127.0.0.1:{port}", timeout_s=self._section.timeout_s, key=key)
        self.where = f"server of our own at {self.url}"
        deadline = time.monotonic() + self._section.start_timeout_s
        while not self.is_ready():
            if self._process.poll() is not None:
                raise UserError(f"{named('rollout.vllm')}: the server ended while starting: {self.last_words()}")
            if time.monotonic() > deadline:
                self.close()
                raise UserError(
                    f"rollout.vllm.start_timeout_s={self._section.start_timeout_s:g}: the server was not ready by "
                    f"then; give it longer, or see what it waits for: {self.last_words()}"
                )
            time.sleep(0.2)


def named_server(section: VllmSection) -> Client:
    """Return a server that somebody else started, at rollout.vllm.url.

    Raises: UserError when none answers there, of a tested version, with the log-probabilities that are needed.
    """
    here, none = named("rollout.vllm.url", section.url), named("rollout.vllm.url", '""')
    client = Client(section.url.rstrip("/"), timeout_s=section.timeout_s, key=os.environ.get("VLLM_API_KEY", ""))
    try:
        version, mode = client.version(), client.logprobs_mode()
    except (ServerLost, UserError) as error:
        raise UserError(
            f"{here}: no vLLM server with development routes answers there ({error}); "
            f"start one as docs/vllm.md says, or use {none} to have one started"
        ) from error
    if mode != "processed_logprobs":
        raise UserError(
            f"{here}: the server reports {mode or 'unknown'} log-probabilities, not "
            "those it samples from; start it with --logprobs-mode processed_logprobs"
        )
    require_tested(version, section, here)
    return client


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the guard's standard input, at which it ends the server, and wait for that."""
    if process.stdin is not None and not process.stdin.closed:
        with suppress(OSError):
            process.stdin.close()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
