"""`--watch`: the report of a run in progress, served to a browser on this machine.

Only 127.0.0.1 is bound, only GET of "/" and "/version" is answered, and only under a Host that
names this machine: a page elsewhere that points its own name here (DNS rebinding) is refused.
Left out: serving other machines. A tunnel (ssh -L) does that with a login.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aha.report.pages import EVERY_S, render, render_report
from aha.runs import RunDirectory
from aha.types import UserError

# A build takes at most this share of one core, however large the run has grown.
_SHARE = 0.25
_FILES = ("metrics.jsonl", "samples.jsonl", "alerts.jsonl", "eval.json", "eval-after.jsonl")


class LiveReport:
    """The newest page of a run: rebuilt on request, when its files changed and not too often."""

    def __init__(self, run: RunDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._lock = threading.Lock()
        self._version = ""
        self._page = ""
        self._not_before = 0.0

    def version(self) -> str:
        """The version that `page` would give now."""
        with self._lock:
            return self._next()

    def page(self) -> str:
        """The report's HTML; a note while the run has no step yet."""
        with self._lock:
            version = self._next()
            if version != self._version:
                started = self._clock()
                try:
                    self._page = render_report(self._run, version)
                except UserError as error:
                    note = {"name": self._run.path.name, "why": str(error)}
                    self._page = render("waiting.html.j2", note, version)
                self._version = version
                took = self._clock() - started
                self._not_before = self._clock() + max(EVERY_S, took / _SHARE)
            return self._page

    def _next(self) -> str:
        """The sizes and times of the run's files; the shown version while a build is too soon."""
        if self._page and self._clock() < self._not_before:
            return self._version
        paths = (self._run.path / name for name in _FILES)
        states = [path.stat() for path in paths if path.exists()]
        return "-".join(f"{s.st_size:x}.{s.st_mtime_ns:x}" for s in states) or "empty"


def watch(run: RunDirectory, port: int, say: Callable[[str], None]) -> None:
    """Serve the run's report until Ctrl-C; `say` gets the address.

    `port` 0 takes a free one. Errors: UserError when the port cannot be used.
    """
    server = make_server(run, port)
    say(f"the report is at http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("ended")
    finally:
        server.server_close()


def make_server(run: RunDirectory, port: int) -> ThreadingHTTPServer:
    """The server, bound but not yet serving. Errors: UserError when the port cannot be used."""
    try:
        server = _Server(("127.0.0.1", port), _Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port} cannot be used: {error}.") from None
    server.report = LiveReport(run)
    return server


class _Server(ThreadingHTTPServer):
    # With reuse, a second watcher on Windows would share the port with the first.
    allow_reuse_address = False
    report: LiveReport


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10  # seconds a silent client may hold a thread
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        own = [[f"{name}:{self.server.server_port}"] for name in ("127.0.0.1", "localhost")]
        if self.headers.get_all("Host", []) not in own:
            return self._reply(HTTPStatus.FORBIDDEN, "This address serves its own machine only.")
        if self.path == "/version":
            return self._reply(HTTPStatus.OK, self.server.report.version())
        if self.path == "/":
            return self._reply(HTTPStatus.OK, self.server.report.page(), "text/html")
        return self._reply(HTTPStatus.NOT_FOUND, "Only / and /version are served.")

    def _refuse(self) -> None:
        self._reply(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is answered.")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _reply(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)),
            "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "aha"

    def log_message(self, format: str, *args: Any) -> None:
        """Log no requests: they are of no interest to someone who watches a run."""
