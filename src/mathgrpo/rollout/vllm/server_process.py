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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError, named
from mathgrpo.rollout.vllm.client import SERVED_NAME, Client

SERVED = Path(__file__).parent / "served"
"""Folder of the worker extension; vLLM's Python finds it by PYTHONPATH."""

CPU_CACHE_GB = 2
"""Memory for keys and values of a CPU build, which has no device memory to take a share of."""

_GUARD = Path(__file__).with_name("guard.py")
_LOG_LINES, _LAST_LINES, _LOG_WIDTH = 300, 3, 160
_CAUSE = re.compile(r"\w(Error|Exception): \S")


class OwnServer(Client):
    """The server process, and the client that speaks with it.

    python: of vLLM's environment. scratch: folder of the weights and, at first, the log; removed if this process dies.
    arguments: of vLLM's engine, by the names of its Python interface.
    """

    def __init__(
        self, python: str, scratch: Path, arguments: Mapping[str, Any], section: VllmSection, *, on_cpu: bool
    ) -> None:
        self._python, self._scratch, self._arguments = python, scratch, arguments
        self._section, self._on_cpu, self._restarted = section, on_cpu, False
        self._log = scratch / "vllm.log"
        self._start()

    def restart(self) -> bool:
        if self._restarted:
            return False
        self._restarted = True
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
        # vLLM's module and not its `vllm` command, which looks for an installed distribution called vllm: its CPU
        # builds have other names.
        command = [
            self._python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
            "--served-model-name", SERVED_NAME, *_options(self._arguments), "--disable-uvicorn-access-log",
            "--worker-extension-cls", "mathgrpo_vllm_worker.WeightsExtension", *self._section.arguments,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_GUARD), str(self._scratch), str(self._log), *command],
            stdin=subprocess.PIPE, env=_environment(key, self._on_cpu), start_new_session=True,
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


def _options(arguments: Mapping[str, Any]) -> list[str]:
    """Return engine arguments as vLLM's command line has them."""
    options: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options += [f"--{option}", str(value)]
    return options


def _environment(key: str, on_cpu: bool) -> dict[str, str]:
    """Return the environment of the server: ours, without what leads Python to our packages, with what vLLM needs.

    The development routes carry weights and sleep; they are why the server listens on the loopback address only.
    """
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    wanted = {
        "PYTHONPATH": str(SERVED), "VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    cpu = {"VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GB), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return (cpu if on_cpu else {}) | kept | wanted


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
