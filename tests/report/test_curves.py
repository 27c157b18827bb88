from __future__ import annotations

import re

import pytest

from aha.report.charts import Chart, Series, chart_svg
from aha.report.curves import (
    POINTS,
    constant,
    panels,
    phase_table,
    phase_windows,
    series_of,
    smooth,
)
from aha.report.run_data import Metrics


def records(values: list[float | None], key: str = "reward") -> Metrics:
    return [{"step": step, key: value} for step, value in enumerate(values, start=1)]


def test_smoothing_by_hand() -> None:
    assert smooth([1.0, 2.0, 3.0, 6.0], 2) == [1.0, 1.5, 2.5, 4.5]


def test_unknown_values_are_passed_over() -> None:
    series = series_of("run", [records([1.0, None, 3.0])], "reward")
    assert series is not None
    assert (series.steps, series.raw) == ([1, 3], [1.0, 3.0])
    assert series_of("run", [records([None])], "reward") is None


def test_a_long_run_is_thinned_without_losing_its_extremes() -> None:
    values: list[float | None] = [0.0] * 2_000
    values[777] = 9.0
    series = series_of("run", [records(values)], "reward")
    assert series is not None
    assert len(series.steps) == POINTS
    # Bins of five steps: 777 (counted from 0) is in bin 155, whose steps are 776 to 780.
    assert series.steps[155] == 778
    assert series.high is not None
    assert max(series.high) == 9.0 == series.high[155]
    assert series.low is not None
    assert max(series.low) == 0.0


def test_seeds_are_a_mean_and_a_band_over_the_steps_they_share() -> None:
    group = [records([0.0, 1.0, 2.0]), records([1.0, 3.0, 8.0]), records([2.0, 2.0])]
    series = series_of("three seeds", group, "reward")
    assert series is not None
    # Windows of a twentieth are one step here, so the running means are the values.
    assert series.steps == [1, 2]
    assert series.values == [1.0, 2.0]
    assert (series.low, series.high) == ([0.0, 1.0], [2.0, 3.0])


def test_a_schedule_is_drawn_as_it_is() -> None:
    rates: list[float | None] = [0.1, 0.2, 0.3, *(0.3 - 0.01 * step for step in range(27))]
    series = series_of("run", [records(rates, "learning_rate")], "learning_rate")
    assert series is not None
    assert series.values == rates
    assert series.raw is None
    # Means of the last twentieth, here two steps, would begin otherwise.
    longer = [*rates, *rates]
    smoothed = series_of("run", [records(longer)], "reward")
    assert smoothed is not None
    assert smoothed.values != longer
    seeds = series_of("seeds", [records(longer, "learning_rate")] * 2, "learning_rate")
    assert seeds is not None
    assert seeds.values == seeds.low == seeds.high == longer


def test_seeds_without_a_common_step_have_no_curve() -> None:
    later = [{"step": 9, "reward": 1.0}]
    assert series_of("seeds", [records([0.0]), later], "reward") is None


def test_what_never_changes_is_named_and_not_drawn() -> None:
    metrics = [{"step": s, "reward": float(s), "kl": 0.0} for s in (1, 2)]
    titles = [panel.title for _, found in panels([("run", [metrics])]) for panel in found]
    assert titles == ["Reward, weighted sum"]
    assert constant(metrics) == [("KL to the start, nats a token", 0.0, "number")]


def test_every_reward_has_a_panel() -> None:
    metrics = [{"step": s, "rewards/a/mean": s / 2, "rewards/b/mean": s / 3} for s in (1, 2)]
    titles = [panel.title for _, found in panels([("run", [metrics])]) for panel in found]
    assert titles == ["Reward a, unweighted", "Reward b, unweighted"]


@pytest.fixture
def panel() -> Chart:
    return Chart(
        "Reward <of> it", "number", (Series("a", [0.1, 0.3, 0.2], [1, 2, 3], raw=[0, 1, 0]),)
    )


def test_svg_takes_its_colours_from_the_page(panel: Chart) -> None:
    svg = chart_svg(panel)
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "var(--series-0)" in svg
    assert "#123456" not in svg
    assert "<style" not in svg
    assert "http" not in svg


def test_svg_says_what_it_shows(panel: Chart) -> None:
    label = re.search(r'aria-label="([^"]*)"', chart_svg(panel))
    assert label is not None
    assert label.group(1) == (
        "Reward &lt;of&gt; it. from 0.100 at step 1 to 0.200 at step 3, lowest 0.100, "
        "highest 0.300."
    )


def test_series_differ_in_more_than_colour() -> None:
    lines = tuple(Series(name, [1.0, 2.0, 3.0], [1, 2, 3]) for name in ("one", "two"))
    svg = chart_svg(Chart("Two", "number", lines))
    assert ">one<" in svg
    assert ">two<" in svg
    assert "stroke-dasharray" in svg


def test_a_label_is_text_whatever_it_holds() -> None:
    lines = tuple(
        Series(name, [1.0, 2.0], [1, 2])
        for name in ("<b>$\\frac{", "0.123456 $x$ run", "-->", "#0072b2", "\x01\ud800")
    )
    svg = chart_svg(Chart("Names", "number", lines))
    assert ">&lt;b&gt;$\\frac{<" in svg
    assert ">0.123456 $x$ run<" in svg
    assert ">#0072b2<" in svg
    assert ">⟨U+0001⟩⟨U+D800⟩<" in svg
    assert "<!--" not in svg


def test_bars_are_written_out_in_words() -> None:
    sets = (Series("before", [0.1, 0.2]), Series("after", [0.3, 0]))
    chart = Chart("Shares", "percent", sets, ["x", "y"])
    svg = chart_svg(chart)
    assert "Shares. x before 10.0\N{NO-BREAK SPACE}%, after 30.0" in svg
    assert "url(#" in svg  # the second set is hatched


def test_windows_by_hand() -> None:
    assert phase_windows(150) == [(0, 15), (30, 45), (68, 83), (105, 120), (135, 150)]
    assert phase_windows(1) == [(0, 1)] * 5


def test_means_of_the_phases_and_what_is_not_known() -> None:
    metrics = [
        {"step": step, "reward": float(step), "entropy": None if step > 2 else 0.5, "kl": None}
        for step in range(1, 21)
    ]
    phases, found = phase_table(metrics)
    # Twenty steps: windows of two, centred on 5, 10 and 15 between the ends.
    assert [(first, last) for _, first, last in phases] == [
        (1, 2),
        (5, 6),
        (10, 11),
        (15, 16),
        (19, 20),
    ]
    rows = {label: means for label, _, means in found}
    assert rows["reward"] == [1.5, 5.5, 10.5, 15.5, 19.5]
    assert rows["entropy, nats a token"] == [0.5, None, None, None, None]
    assert "KL to the start, nats a token" not in rows
    assert "accuracy, strict" not in rows


def test_every_reward_has_a_row() -> None:
    metrics = [{"step": 1, "reward": 1.0, "rewards/a/mean": 0.5, "rewards/a/std": 0.1}]
    assert [label for label, _, _ in phase_table(metrics)[1]] == ["reward", "reward a, unweighted"]


def test_the_lengths_of_right_completions_lie_behind_the_curve_of_length() -> None:
    metrics: Metrics = [
        {
            "step": step,
            "completions/mean_length": 40.0 + step,
            "completions/right_length_p10": 10.0,
            "completions/right_length_p90": 30.0 + 2 * step,
        }
        for step in (1, 2)
    ]
    ((_, (chart,)),) = panels([("run", [metrics])])
    (band,) = chart.behind
    assert (band.low, band.high) == ([10.0, 10.0], [32.0, 34.0])
    assert "right completions" in chart_svg(chart)
    del metrics[1]["completions/right_length_p90"]
    ((_, (chart,)),) = panels([("run", [metrics])])
    assert chart.behind == ()
