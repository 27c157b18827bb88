from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aha.recipe import load_recipe
from aha.report import watch as watch_
from aha.report.pages import EVERY_S
from aha.report.watch import LiveReport, make_server, watch
from aha.runs import RunDirectory
from aha.types import UserError
from begun_run import begun_run


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def port(run: RunDirectory) -> Iterator[int]:
    server = make_server(run, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def ask(
    port: int, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    reply = connection.getresponse()
    body = reply.read().decode()
    connection.close()
    return reply.status, body, dict(reply.getheaders())


def add_step(run: RunDirectory) -> None:
    last = run.metrics()[-1]
    with run.metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**last, "step": last["step"] + 1}) + "\n")


def test_the_report_is_served_with_its_version(port: int) -> None:
    status, page, headers = ask(port, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    _, version, _ = ask(port, "/version")
    assert f'data-version="{version}"' in page


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", ""]
)
def test_another_name_for_this_machine_is_refused(port: int, host: str) -> None:
    for path in ("/", "/version"):
        status, body, _ = ask(port, path, host=host)
        assert status == 403
        assert "countdown" not in body


def test_localhost_is_this_machine(port: int) -> None:
    assert ask(port, "/version", host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_only_get_is_answered(port: int, method: str) -> None:
    assert ask(port, "/", method)[0] == 405


@pytest.mark.parametrize("path", ["/recipe.yaml", "/../recipe.yaml", "/?x", "/version/"])
def test_there_are_two_addresses_and_no_files(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


def test_only_this_machine_can_connect(run: RunDirectory) -> None:
    server = make_server(run, 0)
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()


def test_a_page_is_rebuilt_when_its_run_went_on_but_not_at_once(run: RunDirectory) -> None:
    clock = Clock()
    live = LiveReport(run, clock)
    first, version = live.page(), live.version()
    add_step(run)
    # Too soon: the old page, and the old version, so that a browser does not reload for nothing.
    clock.now = EVERY_S - 0.1
    assert live.version() == version
    assert live.page() is first
    clock.now = EVERY_S + 0.1
    assert live.version() != version
    assert "41 steps" in live.page()
    assert "40 steps" in first


def test_nothing_new_is_not_built_again(run: RunDirectory) -> None:
    clock = Clock()
    live = LiveReport(run, clock)
    first = live.page()
    clock.now = 100.0
    assert live.page() is first


def test_before_the_first_step_there_is_a_note(tmp_path: Path) -> None:
    empty = begun_run(load_recipe("countdown-tiny"), tmp_path / "empty")
    page = LiveReport(empty).page()
    assert "no recorded step" in page
    assert "data-version" in page


def test_a_port_that_is_taken_is_one_sentence(run: RunDirectory, port: int) -> None:
    with pytest.raises(UserError, match=f"--port {port} cannot be used"):
        make_server(run, port)
    with pytest.raises(UserError, match="--port 70000"):
        make_server(run, 70000)


def test_ctrl_c_ends_it_in_good_order(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch_._Server, "serve_forever", interrupted)
    said: list[str] = []
    watch(run, 0, said.append)
    assert said[0].startswith("the report is at http://127.0.0.1:")
    assert said[-1] == "ended"
