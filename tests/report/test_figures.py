from __future__ import annotations

import struct
from pathlib import Path

import pytest
from made_run import MakeRun

from aha.report.comparison import write_figure, write_figures
from aha.runs import RunDirectory
from aha.types import UserError


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
