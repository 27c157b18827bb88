from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from made_run import MakeRun, wrong

from aha.report.comparison import (
    Group,
    group_runs,
    render_comparison,
    write_figure,
    write_figures,
)
from aha.report.run_data import load
from aha.runs import RunDirectory
from aha.types import UserError

NBSP = "\N{NO-BREAK SPACE}"


@pytest.fixture
def seeds(make_run: MakeRun) -> list[RunDirectory]:
    runs = [make_run(f"seed-{seed}", seed) for seed in range(3)]
    # The second seed ends with one right less: four of six.
    records = runs[1].read_lines("eval-after.jsonl")
    records[0] = {**records[0], "correct": False, "completion": wrong(6)}
    runs[1].write_lines("eval-after.jsonl", records)
    return runs


def test_seeds_of_a_recipe_are_one_group_with_a_row_each(seeds: list[RunDirectory]) -> None:
    (group,) = group_runs([load(run) for run in seeds])
    assert (group.label, group.seeds) == ("countdown-tiny", "0, 1, 2")
    after = group.mean("after")
    assert after is not None
    # 5/6, 4/6, 5/6.
    assert after.value == pytest.approx(14 / 18)
    assert (after.low, after.high, after.n) == (4 / 6, 5 / 6, 3)


def test_the_page_gives_mean_range_and_every_seed(seeds: list[RunDirectory]) -> None:
    html = render_comparison(seeds)
    assert (
        f"Over 3 seeds accuracy (strict) on held-out problems went from 16.7{NBSP}% on average "
        f"(lowest to highest 16.7 to 16.7{NBSP}%) to 77.8{NBSP}% (66.7 to 83.3{NBSP}%)."
    ) in html
    for name in ("seed-0", "seed-1", "seed-2"):
        assert f'<th scope="row">{name}' in html
    assert "mean of 3 seeds" in html
    assert f"<td>77.8{NBSP}%<small>66.7 to 83.3{NBSP}%</small></td>" in html
    # The band of the reward chart.
    reward = re.search(r"<svg[^>]*Reward, weighted sum.*?</svg>", html, re.DOTALL)
    assert reward is not None
    assert "fill-opacity: 0.18" in reward.group()
    assert "http://" not in html


def test_another_recipe_is_another_group_and_says_what_differs(make_run: MakeRun) -> None:
    runs = [
        make_run("a"),
        make_run("b", overrides=("optimizer.learning_rate=0.001",)),
        make_run(
            "c", seed=1, overrides=("optimizer.learning_rate=0.001", "logging.samples_steps=3")
        ),
    ]
    groups = group_runs([load(run) for run in runs])
    assert [(g.label, g.seeds) for g in groups] == [
        ("countdown-tiny", "0"),
        ("countdown-tiny, learning_rate=0.001", "0, 1"),
    ]
    html = render_comparison(runs)
    assert "optimizer.learning_rate: 0.0003 -&gt; 0.001" in html
    # A legend in the drawing.
    assert ">countdown-tiny, learning_rate=0.001 (2 seeds)<" in html


def test_runs_without_evaluations_are_compared_by_their_curves(make_run: MakeRun) -> None:
    html = render_comparison(
        [make_run("a", evaluations=False), make_run("b", 1, evaluations=False)]
    )
    assert 'id="curves"' in html
    assert 'id="behaviours"' not in html


def test_a_hostile_recipe_stays_text(make_run: MakeRun) -> None:
    one, two = make_run("a"), make_run("b")
    recipe = two.path / "recipe.yaml"
    text = recipe.read_text("utf-8").replace("system: null", "system: '<b>$x_{ \u202e'", 1)
    recipe.write_text(text, encoding="utf-8")
    html = render_comparison([one, two])
    assert "<b>" not in html
    assert ">countdown-tiny, system=&lt;b&gt;$x_{ ⟨U+202E⟩<" in html
    assert "\u202e" not in html


def test_the_mean_of_nothing_is_nothing() -> None:
    assert Group("two runs", (), ({}, {})).mean("after") is None


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_run_has_four_figures(run: RunDirectory, tmp_path: Path) -> None:
    paths = write_figures([run], tmp_path / "figures")
    assert sorted(path.name for path in paths) == [
        "behaviours.png",
        "curves.png",
        "entropy_kl.png",
        "words.png",
    ]
    assert all(size(path)[0] > 500 for path in paths)


def test_an_older_run_without_evaluations_has_two(make_run: MakeRun, tmp_path: Path) -> None:
    old = make_run(reasoning=False, evaluations=False)
    paths = write_figures([old], tmp_path / "figures")
    assert sorted(path.name for path in paths) == ["curves.png", "entropy_kl.png"]


def test_seeds_share_their_figures(make_run: MakeRun, tmp_path: Path) -> None:
    paths = write_figures([make_run(f"s{s}", s) for s in range(2)], tmp_path / "figures")
    assert len(paths) == 4


def test_a_run_of_one_step_has_no_curve_to_draw(make_run: MakeRun, tmp_path: Path) -> None:
    short = make_run(steps=1, evaluations=False)
    with pytest.raises(UserError, match="no curve"):
        write_figure(short, tmp_path / "curves.png")
    assert write_figures([short], tmp_path / "figures") == []


def test_one_picture_of_the_main_curves(run: RunDirectory, tmp_path: Path) -> None:
    write_figure(run, tmp_path / "curves.png")
    width, height = size(tmp_path / "curves.png")
    assert width > height > 500
