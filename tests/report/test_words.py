from __future__ import annotations

from dataclasses import replace

from aha.report.before_after import words_chart
from aha.report.run_data import Written, load
from aha.runs import RunDirectory


def texts(run: RunDirectory, *found: str) -> list[Written]:
    first = load(run).before[0]
    return [replace(first, text=text) for text in found]


def test_counts_are_per_hundred_completions(run: RunDirectory) -> None:
    before = texts(run, "wait", "nothing", "nothing", "nothing")
    after = texts(run, "Wait, wait", "perhaps WAIT")
    chart = words_chart([("before", before), ("after", after)], "countdown")
    assert chart is not None
    assert list(chart.categories) == ["“wait”", "“perhaps”"]
    assert [bars.values for bars in chart.series] == [[25.0, 0.0], [150.0, 50.0]]


def test_the_most_frequent_phrase_comes_first(run: RunDirectory) -> None:
    chart = words_chart([("after", texts(run, "perhaps perhaps wait"))], "countdown")
    assert chart is not None
    assert list(chart.categories) == ["“perhaps”", "“wait”"]


def test_no_phrase_no_chart(run: RunDirectory) -> None:
    assert words_chart([("after", texts(run, "2 + 2 = 4"))], "countdown") is None
