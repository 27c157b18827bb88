"""The page in a real browser: a game from the press of a button to the verdicts, and its limits."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recited import GIVES_UP, GOES_ON, MakeSession

from aha.play.session import Draw, Session
from aha.types import UserError
from chromium import headless_chromium

pytest.importorskip("gradio", reason="gradio is not installed")

from aha.play.web import make_server

HOSTILE = (
    "<script>document.title='taken'</script> <img src=x onerror=\"document.title='taken'\"> "
    "${document.title='taken'} {{constructor.constructor}} </div></section><h1 id=injected>x</h1> "
    "1 + 1 = 3 </think> <answer> 15 </answer>"
)
Serve = Callable[..., str]

# gradio counts its games with what pandas will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.*")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless_chromium(browser="ALL", performance="ALL") as driver:
        yield driver


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves sessions; gives the address."""
    with contextlib.ExitStack() as stack:

        def begin(session: Session, pace: float = 0.0) -> str:
            server, listening = make_server(session, Draw(pace=pace), 0)
            port = listening.getsockname()[1]
            thread = threading.Thread(target=server.run, args=([listening],))
            thread.start()

            def end() -> None:
                server.should_exit = True
                thread.join()

            stack.callback(end)
            return f"http://127.0.0.1:{port}/"

        yield begin


@pytest.fixture
def pair(make_session: MakeSession) -> Session:
    return make_session(base=[GIVES_UP], trained=[GOES_ON])


def wait(page: Any, selector: str, text: str = "") -> Any:
    """The first element there is, within half a minute, that holds the text."""
    from selenium.common.exceptions import StaleElementReferenceException

    until = time.monotonic() + 30
    while time.monotonic() < until:
        for element in page.find_elements("css selector", selector):
            # A frame may replace it between the two.
            with contextlib.suppress(StaleElementReferenceException):
                if text in element.text:
                    return element
        time.sleep(0.05)
    raise AssertionError(f"no {selector} with {text!r}: {page.page_source[-3000:]}")


def open_page(browser: Any, address: str, width: int = 1280) -> Any:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)
    wait(browser, "#problem textarea, #problem input")
    return browser


def play(page: Any, problem: str) -> None:
    field = wait(page, "#problem textarea, #problem input")
    field.clear()
    field.send_keys(problem)
    wait(page, "#play").click()


def widths(page: Any) -> list[int]:
    found: list[int] = page.execute_script(
        "return [document.documentElement.scrollWidth, innerWidth]"
    )
    return found


def test_a_typed_problem_is_played_by_both_checked_and_judged(
    browser: Any, serve: Serve, session: Session
) -> None:
    page = open_page(browser, serve(session))
    play(page, "15 from 3 13 5")
    wait(page, ".aha-summary")
    lanes = page.find_elements("css selector", ".aha-lane")
    assert [lane.find_element("css selector", "h2").text for lane in lanes] == [
        "aha-tiny",
        "mine (step-000003)",
    ]
    for lane in lanes:
        assert lane.find_elements("css selector", ".m-true .sign, .m-false .sign")
        assert lane.find_elements("css selector", ".k-right, .k-wrong")
        assert "strict" in lane.text
        assert "tokens/s" in lane.text


def test_nothing_is_loaded_from_elsewhere_and_nothing_complains(
    browser: Any, serve: Serve, pair: Session
) -> None:
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    address = serve(pair)
    page = open_page(browser, address)
    play(page, "15 from 3 13 5")
    wait(page, ".aha-summary")
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) > 5
    assert [url for url in asked if not url.startswith((address, "data:", "about:"))] == []
    assert page.get_log("browser") == []


def test_the_race_is_seen_while_it_goes_on_and_can_be_stopped(
    browser: Any, serve: Serve, pair: Session
) -> None:
    page = open_page(browser, serve(pair, pace=10))
    play(page, "15 from 3 13 5")
    wait(page, ".k-writing", "tokens")
    wait(page, ".m-true", "13 * 3 = 39")
    assert page.find_elements("css selector", ".aha-summary") == []
    wait(page, "#stop").click()
    time.sleep(1)
    before = wait(page, ".aha-lanes").text
    time.sleep(1.5)
    assert wait(page, ".aha-lanes").text == before
    assert page.find_elements("css selector", ".aha-summary") == []


def test_games_are_counted_and_problems_can_be_chosen(
    browser: Any, serve: Serve, pair: Session
) -> None:
    page = open_page(browser, serve(pair))
    play(page, "15 from 3 13 5")
    wait(page, ".aha-summary")
    wait(page, "#random").click()
    assert "of 2" in wait(page, ".aha-summary", "so far").text
    field = wait(page, "#problem textarea, #problem input")
    assert field.get_attribute("value") in {
        pair.task.written(problem.columns) for problem in pair.held_out
    }
    wait(page, "#held-out input").click()
    option = wait(page, "[role=option]", " from ")
    text = option.text.replace("✓", "").strip()
    option.click()
    until = time.monotonic() + 10
    while field.get_attribute("value") != text and time.monotonic() < until:
        time.sleep(0.05)
    assert field.get_attribute("value") == text


def test_a_bad_problem_is_a_sentence(browser: Any, serve: Serve, pair: Session) -> None:
    page = open_page(browser, serve(pair))
    play(page, "<b>hello</b>")
    alert = wait(page, ".aha-refusal")
    assert "'<b>hello</b>' is no Countdown problem; write the target" in alert.text
    assert alert.get_attribute("role") == "alert"


def test_hostile_text_stays_text(browser: Any, serve: Serve, make_session: MakeSession) -> None:
    page = open_page(browser, serve(make_session(base=[HOSTILE], trained=[HOSTILE])))
    play(page, "15 from 3 13 5")
    wait(page, ".aha-summary")
    assert page.title == "aha play"
    assert page.find_elements("css selector", "#injected, .aha img, .aha script") == []
    shown = page.find_element("css selector", ".aha-text").text
    assert "${document.title='taken'} {{constructor.constructor}}" in shown
    assert "<script>document.title='taken'</script>" in shown


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_and_both_themes_are_readable(
    width: int, browser: Any, serve: Serve, pair: Session
) -> None:
    address = serve(pair)
    inks = {}
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        page = open_page(browser, address, width)
        play(page, "15 from 3 13 5")
        wait(page, ".aha-summary")
        scroll, inner = widths(page)
        assert scroll <= inner == width
        inks[scheme] = page.execute_script(
            "return ['.aha-text', '.m-true', '.m-false', '.m-turn', '.m-check', '.aha-details']"
            ".map(s => [getComputedStyle(document.querySelector(s)).color,"
            " getComputedStyle(document.querySelector('.aha-text')).backgroundColor])"
        )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert inks["light"] != inks["dark"]
    for pairs in inks.values():
        for ink, paper in pairs:
            assert contrast(ink, paper) >= 4.5  # WCAG 2.2, level AA


def contrast(ink: str, paper: str) -> float:
    """WCAG's ratio of two colours such as `rgb(0, 112, 79)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def test_a_port_that_is_taken_is_a_sentence(pair: Session) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} cannot be used"):
            make_server(pair, Draw(), port)


@pytest.mark.slow
def test_the_command_serves_this_machine_only_and_asks_nobody_else(
    run_folder: Path, tmp_path: Path
) -> None:
    # Every connection that the process makes, from its first import on, is written down.
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "connect = socket.socket.connect\n"
        "def spy(self, address):\n"
        "    open('connections', 'a').write(f'{address}\\n')\n"
        "    return connect(self, address)\n"
        "socket.socket.connect = spy\n"
    )
    command = [
        sys.executable,
        "-m",
        "aha.cli.main",
        "play",
        str(run_folder),
        "--web",
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("play at http://127.0.0.1:")
        port = int(said.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as page:
            page.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            answer = b"".join(iter(lambda: page.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"aha play" in answer
        bound = Path("/proc/net/tcp").read_text(encoding="utf-8")
        assert f" 0100007F:{port:04X} 00000000:0000 0A" in bound
        assert f" 00000000:{port:04X} " not in bound
    finally:
        process.send_signal(2)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors == ""
    assert not (tmp_path / "connections").exists()
