from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aha.play.web import MAX_BODY, Guard, Limiter


def answer(path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of what a guarded application says."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"page"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    given = {"host": "127.0.0.1:8766", **{k.replace("_", "-"): v for k, v in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in given.items() if value]
    scope = {"type": "http", "path": path, "method": method, "headers": raw}
    asyncio.run(Guard(app, 8766)(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["127.0.0.1:8766", "localhost:8766"])
def test_its_own_page_is_answered_and_told_to_load_nothing_from_elsewhere(host: str) -> None:
    status, headers = answer(host=host, origin=f"http://{host}")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-app"] == "1"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8766"}, 403),
        ({"host": "127.0.0.1:1"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1:8766"}, 403),
        ({"path": "/gradio_api/upload", "method": "POST", "content_length": "1"}, 404),
        ({"path": "/gradio_api/file=/etc/passwd"}, 404),
        ({"path": "/gradio_api/proxy=http://x"}, 404),
        ({"path": "/gradio_api/deep_link"}, 404),  # writes what was typed to a file
        ({"path": "/gradio_api/process_recording", "method": "POST", "content_length": "1"}, 404),
        ({"path": "/gradio_api/custom_component/1/client/x/y"}, 404),  # prints what it is sent
        ({"path": "/gradio_api/api/play", "method": "POST", "content_length": "1"}, 404),
        ({"path": "/gradio_api/queue/join", "method": "POST"}, 413),
        ({"path": "/x", "method": "POST", "content_length": str(MAX_BODY + 1)}, 413),
        ({"path": "/x", "method": "POST", "content_length": "-1"}, 413),
        ({"path": "/x", "method": "POST", "content_length": str(MAX_BODY)}, 200),
        # A chunked body has any length, whatever the other header says.
        ({"method": "POST", "content_length": "1", "transfer_encoding": "chunked"}, 413),
    ],
)
def test_what_the_page_does_not_ask_is_refused(request_: dict[str, str], status: int) -> None:
    found, headers = answer(**request_)
    assert found == status
    assert ("x-app" in headers) == (status == 200)


@pytest.mark.parametrize(
    ("second", "status"),
    [((b"host", b"evil.example"), 403), ((b"content-length", b"9"), 413)],
)
def test_a_header_that_stands_twice_is_refused(second: tuple[bytes, bytes], status: int) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:1"), (b"content-length", b"1"), second]
    scope = {"type": "http", "path": "/", "method": "POST", "headers": headers}
    asyncio.run(Guard(pytest.fail, 1)(scope, pytest.fail, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == status


def test_no_more_than_so_many_a_minute() -> None:
    now = 100.0
    limiter = Limiter(2, clock=lambda: now)
    assert limiter.admit() == 0
    now = 110.0
    assert limiter.admit() == 0
    now = 120.0
    assert limiter.admit() == 40  # until 160, when the first is a minute old
    now = 160.0
    assert limiter.admit() == 0
    assert limiter.admit() == 10
