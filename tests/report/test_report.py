from __future__ import annotations

import re
from pathlib import Path

import pytest
from markupsafe import Markup

from aha.recipe import load_recipe
from aha.report.build import build_report, case_study, curves, marked, write_figure
from aha.report.curves import Curve, smooth, to_svg
from aha.runs import RunDirectory
from aha.types import UserError

HOSTILE = "<script>alert(1)</script> Wait, <img src=x onerror=alert(2)> \u202e & \x1b[31m"


def eval_record(key: str, correct: bool, completion: str, reflections: int) -> dict[str, object]:
    return {
        "key": key, "prompt": f"Make {key} <think>", "completion": completion,
        "correct": correct, "reflections": reflections,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.create(load_recipe("countdown-tiny"), tmp_path / "run")
    for step in range(1, 41):
        run.append_metrics(
            {
                "step": step,
                "reward": step / 40,
                "accuracy": step / 50,
                "entropy": 0.5,
                "completions/mean_length": 40 + step,
                "completions/clipped_ratio": 0.0,
                "reflection_rate": step / 10,
            }
        )
    summary = {
        "n": 3, "temperature": 1.0, "accuracy": 0.25, "ci95": [0.1, 0.4], "accuracy_lenient": 0.3,
        "format_rate": 1.0, "mean_length": 40.0, "reflection_rate": 0.5, "truncated_rate": 0.0,
    }  # fmt: skip
    run.write_json("eval.json", {"before": summary, "after": {**summary, "accuracy": 0.75}})
    before = [eval_record(key, False, HOSTILE, 0) for key in "abc"]
    after = [eval_record(key, True, f"{key} {HOSTILE}", n) for n, key in enumerate("abc")]
    run.write_lines("eval-before.jsonl", before)
    run.write_lines("eval-after.jsonl", after)
    return run


def test_the_page_is_self_contained_and_holds_the_figures(run: RunDirectory) -> None:
    html = build_report(run).read_text(encoding="utf-8")
    assert "25.0% (95 % interval 10.0% to 40.0%)" in html
    assert "to 75.0%" in html
    assert html.count("<svg") == 6
    assert not re.search(r'(?:src|href)="(?!#)[^"]*"', html)
    assert "@import" not in html
    assert len(html) < 1_000_000


def test_model_text_is_escaped(run: RunDirectory) -> None:
    html = build_report(run).read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script" not in html
    assert "<img" not in html
    assert "<mark>Wait,</mark>" in html


def test_the_case_is_typical_and_reflects(run: RunDirectory) -> None:
    case = case_study(run)
    assert case is not None
    # Of "b" (1 reflection) and "c" (2); "a" reached it without reflecting.
    assert case["gained"] == 2
    assert case["prompt"] == "Make c <think>"


def test_no_case_is_no_case(run: RunDirectory) -> None:
    run.write_lines("eval-after.jsonl", [eval_record("a", False, "x", 0)])
    assert case_study(run) is None
    assert "One held-out problem" not in build_report(run).read_text(encoding="utf-8")


def test_marked_escapes_before_it_marks() -> None:
    assert marked("a <b> Wait, c") == Markup("a &lt;b&gt; \n<mark>Wait,</mark> c")


def test_a_run_without_steps_is_one_sentence(tmp_path: Path) -> None:
    empty = RunDirectory.create(load_recipe("countdown-tiny"), tmp_path / "empty")
    with pytest.raises(UserError, match="no recorded step"):
        build_report(empty)


def test_svg_takes_its_ink_from_the_page() -> None:
    svg = to_svg(Curve("Reward", [1, 2, 3], [0.1, None, 0.3]))
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "#123456" not in svg


def test_smoothing_by_hand() -> None:
    assert smooth([1.0, 2.0, 3.0, 6.0], 2) == [1.0, 1.5, 2.5, 4.5]


def test_the_figure_is_a_png(run: RunDirectory, tmp_path: Path) -> None:
    write_figure(run, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(curves(run)) == 6
