"""`aha play --web`: the game on a page, served to this machine's own browsers by gradio.

Only 127.0.0.1 is bound; nothing is shared, recorded or reported, and nothing is loaded from
elsewhere. One game is played at a time, so that its speed is its own. Left out: a public address;
a tunnel (ssh -L) brings the page to one other machine.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aha.play import page
from aha.play.board import build
from aha.play.guard import Guard
from aha.play.session import Draw, Session
from aha.types import UserError

_HOST = "127.0.0.1"


def require_gradio() -> None:
    """Errors: UserError when gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("--web needs gradio, which is not installed; pip install 'aha-zero[web]'")


def application(session: Session, draw: Draw, pace: float, port: int) -> Guard:
    """The page's server as an ASGI application for one port, behind its guard."""
    # gradio asks a server of its makers for news unless this is set before it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from fastapi import FastAPI

    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mounted = gr.mount_gradio_app(
        outer,
        build(session, draw, pace),
        path="/",
        server_name=_HOST,
        server_port=port,
        # System fonts: gradio's own themes name some of Google's.
        theme=gr.themes.Default(
            primary_hue="blue",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css=page.style(),
        footer_links=[],
        run_history=False,
        max_file_size=1,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
    return Guard(mounted, port)


@dataclass(frozen=True)
class Server:
    """The page's server, bound to its port but not yet serving."""

    uvicorn: Any
    listening: socket.socket

    @property
    def address(self) -> str:
        return f"http://{_HOST}:{self.listening.getsockname()[1]}/"

    def run(self) -> None:
        """Serve until `uvicorn.should_exit`, or Ctrl-C in the main thread."""
        with self.listening:
            self.uvicorn.run(sockets=[self.listening])


def make_server(session: Session, draw: Draw, pace: float, port: int) -> Server:
    """`port` 0 takes a free one. Errors: UserError when the port cannot be had."""
    import uvicorn

    listening = _listening(port)
    app: Any = application(session, draw, pace, listening.getsockname()[1])
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )

    class Quiet(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # An open page holds a stream that ends only now: no fault, but logged as one.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    return Server(Quiet(config), listening)


def serve(session: Session, draw: Draw, pace: float, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; `say` is told the address. Errors: as `make_server`."""
    server = make_server(session, draw, pace, port)
    say(f"play at {server.address} (Ctrl-C ends)")
    try:
        server.run()
    except KeyboardInterrupt:
        say("ended")


def _listening(port: int) -> socket.socket:
    listening = socket.socket()
    # A port that a server just left can be had again, but not one that somebody still has.
    if os.name == "posix":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(f"--port {port} cannot be had: {error}.") from None
    return listening
