"""What stands before the page's server: only this machine's own page may talk to it.

A request under another host name (DNS rebinding) or from another site's page is refused, and so
are large bodies and the server's paths for files and proxying, which the page does not use. The
browser is told to load nothing from elsewhere. Left out: a login. Every user of the machine can
open the page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 64 * 1024
# Files, proxying, and every way to a function but the queue with its limits.
_CLOSED = ("upload", "proxy=", "file", "stream", "component_server", "runs", "run/", "call/")
_CLOSED_PATHS = tuple(f"/gradio_api/{name}" for name in _CLOSED)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """An ASGI application around another, for one port of 127.0.0.1."""

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)
        if refused is not None:
            await _refuse(send, *refused)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason for a request that is not to be answered."""
        headers = _headers(scope)
        if headers.get("host", []) not in [[host] for host in self._hosts]:
            return 403, "This address serves its own machine only."
        own = {f"http://{host}" for host in self._hosts}
        if not set(headers.get("origin", [])) <= own:
            return 403, "This address serves its own page only."
        if scope["path"].startswith(_CLOSED_PATHS):
            return 404, "There is nothing here."
        if scope["method"] not in ("GET", "HEAD"):
            (length,) = headers.get("content-length", ["none"])
            if not (length.isascii() and length.isdigit() and int(length) <= MAX_BODY):
                return 413, f"At most {MAX_BODY} bytes are read."
        return None


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    headers += [(b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
