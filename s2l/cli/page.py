"""The command `app`: serve the page."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from s2l.cli import base
from s2l.errors import UserError


@base.app.command(epilog=base.example("app", "app --port 8000"))
def app(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in. Default: 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: 7860.")] = None,
) -> None:
    """Serve the app.

    Serves the page and computes the runs that visitors ask for, until Ctrl-C.
    """
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port: should be between 1 and 65535 (given: {port})")
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: install it with `pip install 's2l[app]'`")
    from s2l.ui.server import serve

    serve(host, port)
