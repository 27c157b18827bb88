from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from aha.doctor import software

TOKEN = "hf_" + "PLANTEDsecretPLANTEDsecretPLANTED"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def answering() -> Iterator[list[int]]:
    """A hub on this machine; the list's first number is the status it answers with."""
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            assert "Authorization" not in self.headers
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield status
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (404, True), (407, False)])
def test_a_hub_that_answers(answering: list[int], status: int, reachable: bool) -> None:
    answering[0] = status
    found = software.look_at_hub(offline=False)
    assert found.reachable is reachable
    network = software.hub_findings(found)[1]
    assert network.state == ("ok" if reachable else "note")


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://someone:secret@127.0.0.1:9")
    found = software.look_at_hub(offline=False)
    assert not found.reachable
    text = repr((found, software.hub_findings(found)))
    assert "127.0.0.1" in text
    assert "secret" not in text


def test_a_hub_that_says_nothing_is_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert not software.look_at_hub(offline=False).reachable
        assert time.monotonic() - started < 3


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(endpoint: str) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr(software, "_fault", never)
    assert software.look_at_hub(offline=True).offline == "--offline"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = software.look_at_hub(offline=False)
    assert found.offline == "HF_HUB_OFFLINE is set"
    assert software.hub_findings(found)[1].state == "note"


def test_a_token_is_noticed_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert software.look_at_hub(offline=True).token == ""
    (tmp_path / "token").write_text(TOKEN)
    found = software.look_at_hub(offline=True)
    assert found.token == "token file"
    assert "PLANTED" not in repr((found, software.hub_findings(found)))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = software.look_at_hub(offline=True)
    assert found.token == "HF_TOKEN"
    assert "PLANTED" not in repr((found, software.hub_findings(found)))
