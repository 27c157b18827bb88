"""The report in a real browser: it loads nothing, says nothing, and works by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_run import HOSTILE, MakeRun

from aha.report.comparison import render_comparison
from aha.report.pages import build_report
from chromium import headless_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless_chromium(browser="ALL") as driver:
        yield driver


@pytest.fixture
def page(browser: Any, make_run: MakeRun) -> Any:
    """The made run's report; one of its completions is hostile, one is a very long line."""
    hostile = f"{HOSTILE} 2 - 1 = 1 , not 9 . Wait, 2 + 1 = 3 , yes ."
    run = make_run(after={9: hostile, 12: f"no . Wait, {'x' * 1_000_000}"})
    return open_page(browser, build_report(run))


def open_page(browser: Any, path: Path, width: int = 1280) -> Any:
    set_width(browser, width)
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    # Under load `get` has returned while a line of a megabyte was still being read.
    complete = "return document.readyState === 'complete'"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(complete))
    return browser


def set_width(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def found(page: Any, selector: str) -> list[Any]:
    elements: list[Any] = page.find_elements("css selector", selector)
    return elements


def shown(page: Any) -> int:
    return sum(item.is_displayed() for item in found(page, ".moments > li"))


def press(page: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(key).perform()


def test_it_loads_without_a_word_and_without_a_request(page: Any) -> None:
    assert page.get_log("browser") == []
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert page.execute_script(script) == []


def test_the_charts_are_there_and_have_a_size(page: Any) -> None:
    charts = found(page, "figure svg")
    assert len(charts) > 15
    assert all(chart.size["width"] > 250 and chart.size["height"] > 100 for chart in charts)
    assert all(chart.get_attribute("aria-label") for chart in charts)


def test_hostile_text_changes_nothing(page: Any) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert.text  # noqa: B018
    assert page.title == "countdown-tiny: report"
    assert found(page, "img, #injected, iframe, object") == []
    assert len(found(page, "script")) == 1
    assert "gnp.exe" in page.page_source


def test_markup_that_slipped_through_could_not_run(page: Any) -> None:
    page.execute_script(
        'var markup = \'<img src="data:," onerror="document.title=1">\';'
        "document.body.insertAdjacentHTML('beforeend', markup);"
        "var s = document.createElement('script'); s.textContent = 'document.title = 2';"
        "document.body.append(s);"
    )
    assert page.title == "countdown-tiny: report"
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


def test_buttons_filter_by_behaviour(page: Any) -> None:
    everything = shown(page)
    assert everything >= 3
    for button in found(page, ".filters button"):
        button.click()
        name = button.get_attribute("data-behaviour")
        having = [
            item
            for item in found(page, ".moments > li")
            if not name or name in item.get_attribute("data-behaviours").split()
        ]
        assert shown(page) == len(having)
        pressed = found(page, ".filters button[aria-pressed=true]")
        assert [one.get_attribute("data-behaviour") for one in pressed] == [name]
        assert f"{len(having)} of {everything} shown" in found(page, "[role=status]")[0].text


def test_text_filters_and_can_be_cleared(page: Any) -> None:
    everything = shown(page)
    field = found(page, ".filters input")[0]
    first = found(page, ".moments .prompt")[0].text
    field.send_keys(first.upper())
    assert shown(page) == 1
    field.send_keys(" nothing like it")
    assert shown(page) == 0
    field.clear()
    field.send_keys(" ")
    assert shown(page) == everything


def test_the_keyboard_reaches_and_works_the_filters(page: Any) -> None:
    reached = []
    for _ in range(60):
        press(page, "\ue004")  # Tab
        active = page.switch_to.active_element
        reached.append(active.get_attribute("class") or active.get_attribute("data-behaviour"))
        if active.get_attribute("data-behaviour") == "backward_chaining":
            break
    assert reached[0] == "skip"
    assert "self_check" in reached
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    press(page, "\ue00d")  # Space
    assert page.switch_to.active_element.get_attribute("aria-pressed") == "true"


def test_the_skip_link_comes_into_view(page: Any) -> None:
    press(page, "\ue004")
    assert page.execute_script("return document.activeElement.getBoundingClientRect().top") >= 0


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_sticks_out_on_a_narrow_screen(page: Any, width: int) -> None:
    set_width(page, width)
    page.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    widths = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1] == width


def test_dark_mode_follows_the_system(page: Any) -> None:
    backgrounds = {}
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        backgrounds[scheme] = page.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert backgrounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 27)"}


def test_without_scripts_everything_is_shown(page: Any) -> None:
    everything = shown(page)
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.refresh()
    try:
        assert (
            len([item for item in found(page, ".moments > li") if item.size["height"]])
            == everything
        )
        assert not found(page, ".filters")[0].is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_comparison_loads_and_fits(browser: Any, make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"seed-{seed}", seed) for seed in range(3)]
    path = tmp_path / "all.html"
    path.write_text(render_comparison(runs), encoding="utf-8")
    page = open_page(browser, path, width=360)
    assert page.get_log("browser") == []
    widths = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    assert len(found(page, "figure svg")) > 10
