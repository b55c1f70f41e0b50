"""mathgrpo serve."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import Annotated, Any

import typer

from mathgrpo.cli.options import Device, FormatName, Model, Plain, TemplateArguments, chosen_format, open_policy
from mathgrpo.errors import UserError

DEFAULT_NEW_TOKENS = 512
GRACE_S = 2
"""Seconds that what is being answered has when the server ends."""
API_KEY = "MATHGRPO_API_KEY"
"""Environment variable with the key clients must send; no option: shell histories and process lists keep those."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Addresses that only this machine can reach."""


def serve_command(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need MATHGRPO_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: a free one.", min=0, max=65535)] = 8000,
    fmt: FormatName = "",
    template: TemplateArguments = "",
    device: Device = "auto",
    plain: Plain = False,
) -> None:
    """Serve a model as the OpenAI API does: chat completions and completions, streamed or whole.

    \b
    Examples:
      mathgrpo serve runs/my-run
      mathgrpo serve starter --port 0
    """
    from importlib.util import find_spec

    from mathgrpo.cli.options import run_recipe
    from mathgrpo.formats import format_of

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f'serve: needs {" and ".join(missing)}; run: pip install "mathgrpo[serve]"')
    chosen = format_of(chosen_format(run_recipe(model).format, fmt, template))
    if chosen.leaky:
        raise UserError(
            f"--format {chosen.name}: its prompts show a worked solution, which a question has not; use think"
        )
    from mathgrpo.models.locate import locate_model

    locate_model(model)
    listening = open_socket(host, port)

    from mathgrpo.answers.prompt_check import require_answerable
    from mathgrpo.serving.routes import Service, Worker, build_app
    from mathgrpo.serving.stream import Streamer

    policy = open_policy(model, device)
    require_answerable(policy.tokenizer, chosen)
    streamer = Streamer(policy, native=not plain)
    service = Service(
        policy, chosen, Worker(streamer), max_new_tokens=DEFAULT_NEW_TOKENS, local=host in LOOPBACK,
        api_key=os.environ.get(API_KEY, ""),
    )  # fmt: skip
    name = f"[{host}]" if ":" in host else host
    where = f"http://{name}:{listening.getsockname()[1]}/v1"
    print(f'serving "{policy.name}" at {where} (format {chosen.name}); Ctrl-C stops')
    print(f"decoding: {streamer.reason}", flush=True)
    run_server(build_app(service), listening)
    print("stopped")


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
    """Serve until Ctrl-C or SIGTERM."""
    import uvicorn

    # What breaks off is the client's to see; a failure of ours is an answer, so nothing is left to log.
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=GRACE_S, server_header=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises the signal again at its end
    with suppress(KeyboardInterrupt), listening:
        uvicorn.Server(config).run(sockets=[listening])
