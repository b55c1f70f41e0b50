"""mathgrpo serve."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from mathgrpo.cli.options import Device, FormatName, Model, Plain, open_policy
from mathgrpo.errors import UserError

DEFAULT_NEW_TOKENS = 512


def serve_command(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need MATHGRPO_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: a free one.", min=0, max=65535)] = 8000,
    fmt: FormatName = "",
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
    from mathgrpo.formats import get_format
    from mathgrpo.serving.http_server import API_KEY, LOOPBACK, open_socket, run_server

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f'serve: needs {" and ".join(missing)}; run: pip install "mathgrpo[serve]"')
    chosen = get_format(fmt or run_recipe(model).format.name)
    if chosen.leaky:
        raise UserError(
            f"--format {chosen.name}: its prompts show a worked solution, which a question has not; use think"
        )
    from mathgrpo.models.locate import locate_model

    locate_model(model)
    listening = open_socket(host, port)

    import time

    from mathgrpo.serving.routes import Service, Worker, build_app
    from mathgrpo.serving.stream import Streamer

    policy = open_policy(model, device)
    streamer = Streamer(policy, native=not plain)
    service = Service(
        policy, chosen, Worker(streamer), max_new_tokens=DEFAULT_NEW_TOKENS, local=host in LOOPBACK,
        api_key=os.environ.get(API_KEY, ""), started=int(time.time()),
    )  # fmt: skip
    name = f"[{host}]" if ":" in host else host
    where = f"http://{name}:{listening.getsockname()[1]}/v1"
    print(f'serving "{policy.name}" at {where} (format {chosen.name}); Ctrl-C stops')
    print(f"decoding: {streamer.reason}", flush=True)
    run_server(build_app(service), listening)
    print("stopped")
