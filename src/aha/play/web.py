"""`aha play --web`: the game on a page, served to this machine's own browsers by gradio.

gradio has the queue, the limit of one game at a time, the streaming and the stop button. Ours are:
the guard, since gradio answers under any host name and to any site's page, opens paths that the
game does not need, bounds no request's size, and sends no Content-Security-Policy; the check of
what a browser sends, since gradio's sliders let NaN through and its text box any length; the limit
of games a minute, since gradio's queue bounds only the games that wait. Left out: a public address
(use ssh -L), a login (every user of the machine can open the page), and a record of games.
"""

from __future__ import annotations

import html
import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aha.play.scene import LOOKS, SIGNS
from aha.play.session import MAX_CHARACTERS, Draw, Session, Tally, frames, who_plays
from aha.types import RunFailure, UserError
from aha.visible import package_yaml, quoted, visible

if TYPE_CHECKING:
    import uvicorn
    from gradio import Blocks
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_SAMPLES = 8
GAMES_PER_MINUTE = 30
WAITING_GAMES = 8
FASTEST_PACE = 200
HOTTEST = 2.0
MAX_BODY = 64 * 1024
_LISTED = 30
_MINUTE_S = 60.0
_HOST = "127.0.0.1"

_GUARD = package_yaml("aha.play", "guard.yaml")
_PARTS = package_yaml("aha.play", "page.yaml")
# gradio's template engine reads these signs in HTML; as entities they are only text.
_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})


class Guard:
    """An ASGI application around another: only this machine's own page may talk to it.

    It refuses other host names (DNS rebinding), other sites' pages, closed paths and large bodies.
    It tells the browser to load nothing from elsewhere.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in (_HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        if refused := self._refusal(scope["path"], scope["method"], Headers(scope=scope)):
            status, reason = refused
            headers = {**_GUARD["headers"], "connection": "close"}
            await PlainTextResponse(reason, status, headers)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_GUARD["headers"])
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, path: str, method: str, headers: Headers) -> tuple[int, str] | None:
        """The status and the reason for a request that is not answered."""
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return 403, "This address serves its own machine only."
        if not set(headers.getlist("origin")) <= {f"http://{host}" for host in self._hosts}:
            return 403, "This address serves its own page only."
        if path.startswith(tuple(_GUARD["closed_paths"])):
            return 404, "There is nothing here."
        if method not in ("GET", "HEAD"):
            lengths = headers.getlist("content-length")
            length = lengths[0] if len(lengths) == 1 else ""
            known = length.isascii() and length.isdigit() and "transfer-encoding" not in headers
            if not known or int(length) > MAX_BODY:
                return 413, f"At most {MAX_BODY} bytes are read."
        return None


class Limiter:
    """At most `per_minute` admissions within any minute, for all pages together."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._admitted: deque[float] = deque(maxlen=per_minute)

    def admit(self) -> float:
        """0 for an admission, else the seconds until there may be one."""
        now = self._clock()
        if len(self._admitted) == self._admitted.maxlen:
            wait = self._admitted[0] + _MINUTE_S - now
            if wait > 0:
                return wait
        self._admitted.append(now)  # drops the oldest of so many
        return 0.0


def _only_text(value: object) -> Markup:
    if isinstance(value, Markup):  # the result of another macro
        return value
    escaped = html.escape(visible(str(value)), quote=True)
    return Markup(escaped.translate(_TEMPLATE_SIGNS))  # noqa: S704


# Every value that a template shows is escaped, so that a text is only ever text.
_TEMPLATES = Environment(
    loader=PackageLoader("aha.play"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_only_text,
    trim_blocks=True,
)
_TEMPLATES.globals |= {"signs": SIGNS, "titles": LOOKS["titles"], "zip": zip}
_TEMPLATES.globals["who_plays"] = who_plays


def page_html(macro: str, *values: object) -> str:
    """The HTML of a macro of page.html.j2, such as `page_html("refusal", message)`."""
    return str(getattr(_TEMPLATES.get_template("page.html.j2").module, macro)(*values))


@dataclass(frozen=True)
class Page:
    """The work of the page's buttons. It checks what a browser sends, whatever the page allows."""

    session: Session
    draw: Draw
    limiter: Limiter

    def play(
        self,
        text: Any,
        samples: Any,
        temperature: Any,
        tokens: Any,
        pace: Any,
        wish: Any,
        tally: Tally,
    ) -> Generator[tuple[str, Tally], None, None]:
        """A game of the typed problem; a sentence when there can be none."""
        try:
            if wait := self.limiter.admit():
                raise UserError(
                    f"at most {GAMES_PER_MINUTE} games a minute are played here; the next one can "
                    f"begin in {math.ceil(wait)} s."
                )
            problem, between = self.session.typed(str(text or "")), self.session.wishes
            draw = Draw(
                int(_number("samples", samples, 1, MAX_SAMPLES)),
                _number("temperature", temperature, 0, HOTTEST),
                self.draw.seed + tally.begun,
                int(_number("tokens", tokens, 1, self.session.limit)),
                _number("the pace", pace, 0, FASTEST_PACE),
                int(_number("the wish", wish, *between)) if between else None,
            )
            scenes = self.session.play(problem, draw)
            with closing(frames(self.session, scenes, draw.pace)) as shown:
                tally = replace(tally, begun=tally.begun + 1)
                for scene in shown:
                    if scene.over:
                        tally = tally.with_game(scene)
                    yield page_html("game", scene, tally), tally
        except (UserError, RunFailure) as error:
            yield page_html("refusal", error), tally

    def random_problem(self, tally: Tally) -> str:
        """A held-out problem, as a person would type it. Errors: UserError as `held_out`."""
        problem = self.session.random_problem(self.draw.seed + tally.begun)
        return self.session.task.written(problem.columns)


def _number(name: str, value: Any, low: float, high: float) -> float:
    """A number that a browser sent. Errors: UserError when it is no number, or out of range."""
    if isinstance(value, int | float) and low <= value <= high:
        return float(value)
    raise UserError(f"{name} is {quoted(value)}; allowed are {low:g} to {high:g}.")


def build(session: Session, draw: Draw) -> Blocks:
    """The page as gradio has it; nothing is served yet."""
    import gradio as gr

    def show(value: str, name: str | None = None) -> Any:
        return gr.HTML(value, elem_id=name, js_on_load=None, apply_default_css=False)

    game = Page(session, draw, Limiter(GAMES_PER_MINUTE))
    try:
        choices = [session.task.written(one.columns) for one in session.held_out[:_LISTED]]
    except UserError:
        choices = []  # no held-out problems can be read; typing needs none
    blocks: Blocks = gr.Blocks(analytics_enabled=False, title="aha play")
    with blocks:
        tally = gr.State(Tally())
        show(page_html("heading", [player.name for player in session.players]))
        with gr.Row(equal_height=True):
            problem = gr.Textbox(
                placeholder=session.task.example, max_length=MAX_CHARACTERS, **_PARTS["problem"]
            )
            chosen = gr.Dropdown(choices, value=None, visible=bool(choices), **_PARTS["held_out"])
        with gr.Row():
            play = gr.Button(**_PARTS["play"])
            anything = gr.Button(visible=bool(choices), **_PARTS["random"])
            stop = gr.Button(**_PARTS["stop"])
        with gr.Accordion("Settings", open=False), gr.Row():
            sliders = [
                gr.Slider(maximum=most, value=min(value, most), **_PARTS[name])
                for name, value, most in (
                    ("samples", draw.samples, MAX_SAMPLES),
                    ("temperature", draw.temperature, HOTTEST),
                    ("tokens", session.limit, session.limit),
                    ("pace", draw.pace, FASTEST_PACE),
                )
            ]
            least, most = session.wishes or (0, 1)
            sliders.append(
                gr.Slider(
                    minimum=least,
                    maximum=most,
                    value=(least + most) // 2,
                    visible=session.wishes is not None,
                    **_PARTS["wish"],
                )
            )
        asked = [problem, *sliders, tally]
        shown = [show(page_html("waiting"), "game"), tally]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # One game at a time, whichever button began it.
        one: dict[str, Any] = {**quiet, "concurrency_limit": 1, "concurrency_id": "game"}
        drawn = anything.click(game.random_problem, [tally], [problem], **quiet)
        games: list[Any] = [
            play.click(game.play, asked, shown, **one),
            problem.submit(game.play, asked, shown, **one),
            drawn.then(game.play, asked, shown, **one),
        ]
        chosen.input(lambda text: text or "", [chosen], [problem], **quiet)
        stop.click(None, cancels=games, api_visibility="private")
    blocks.queue(max_size=WAITING_GAMES, default_concurrency_limit=1, api_open=False)
    return blocks


def make_server(session: Session, draw: Draw, port: int) -> tuple[uvicorn.Server, socket.socket]:
    """The page's server, and the socket it is to serve; `port` 0 takes a free one.

    Errors: UserError when the port cannot be used.
    """
    # gradio asks its makers' server for news unless this is set before the import.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    try:
        # A port that a server just left can be used again, but not one that is still in use.
        listening = socket.create_server((_HOST, port))
    except OSError as error:
        raise UserError(f"--port {port} cannot be used: {error}.") from None
    port = listening.getsockname()[1]
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        build(session, draw),
        path="/",
        server_name=_HOST,
        server_port=port,
        theme=gr.themes.Default(**_PARTS["theme"]),
        css=(resources.files("aha.play") / "templates/page.css").read_text(encoding="utf-8"),
        **_GUARD["gradio"],
    )

    class Quiet(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # An open page holds a stream that ends only now: no fault, but logged as one.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    guarded: Any = Guard(app, port)
    return Quiet(uvicorn.Config(guarded, **_GUARD["uvicorn"])), listening


def serve(session: Session, draw: Draw, port: int) -> None:
    """Serve the page until Ctrl-C, and print its address. Errors: as `make_server`."""
    server, listening = make_server(session, draw, port)
    print(f"play at http://{_HOST}:{listening.getsockname()[1]}/ (Ctrl-C ends)", flush=True)
    try:
        with listening:
            server.run(sockets=[listening])
    except KeyboardInterrupt:
        print("ended", flush=True)
