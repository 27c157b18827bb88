"""`aha report` as typed: pages, pictures, and options that do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_run import MakeRun

from aha.report import make_report
from aha.runs import RunDirectory
from aha.types import UserError


def said(*runs: Path, **options: Any) -> list[str]:
    lines: list[str] = []
    make_report(runs, lines.append, **options)
    return lines


def test_one_run(run: RunDirectory) -> None:
    assert said(run.path) == [f"report: {run.report_file}"]
    assert run.report_file.read_text("utf-8").startswith("<!doctype html>")


def test_pictures(run: RunDirectory, tmp_path: Path) -> None:
    lines = said(run.path, figure=tmp_path / "a.png", figures=tmp_path / "all")
    assert lines[1] == f"figure: {tmp_path / 'a.png'}"
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["behaviours.png", "curves.png", "entropy_kl.png", "words.png"]
    for path in (tmp_path / "a.png", *(tmp_path / "all").iterdir()):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_several_runs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = tuple(make_run(f"seed-{seed}", seed=seed).path for seed in (0, 1))
    output = tmp_path / "both.html"
    assert said(*runs, output=output) == [f"comparison: {output}"]
    assert "seed-1" in output.read_text("utf-8")


def test_options_that_do_not_go_together(run: RunDirectory, tmp_path: Path) -> None:
    one, two = (run.path,), (run.path, run.path)
    for runs, options, words in (
        (two, {"watch": True}, "--watch takes one run, not 2"),
        (two, {"figure": tmp_path / "x.png"}, "--figure takes one run, not 2"),
        (one, {"output": tmp_path / "x.html"}, "--output goes with several runs"),
        (one, {"watch": True, "figures": tmp_path}, "--watch serves the report"),
        (one, {"port": 8000}, "--port is 8000, but without --watch"),
        (one, {"figure": tmp_path / "x.txt"}, "must end in .png"),
        ((tmp_path / "none",), {}, "not a run directory"),
        (two, {"output": tmp_path / "no" / "x.html"}, "--output: .* cannot be written"),
    ):
        with pytest.raises(UserError, match=words):
            said(*runs, **options)
    assert not run.report_file.exists()
