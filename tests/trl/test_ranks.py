"""What processes do together, told to one of two whose other half is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aha.trl import ranks as module
from aha.trl.ranks import Ranks, require_shared
from aha.types import RunFailure, UserError


class Other:
    """torch.distributed with one more process, which says `value`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def all_gather_object(self, values: list[Any], mine: Any) -> None:
        values[:] = [mine, self.value]

    def broadcast_object_list(self, values: list[Any], src: int) -> None:
        if values == [None]:
            values[0] = self.value


def pair(index: int, other: Any, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    monkeypatch.setattr(module, "dist", Other(other))
    return Ranks(index, 2)


def failing() -> None:
    raise UserError("mine")


def test_alone_is_simple() -> None:
    ranks = Ranks(0, 1)
    assert ranks.is_main
    assert ranks.gather(3) == [3]
    assert ranks.on_main(lambda: 4) == ranks.together(lambda: 4) == 4
    for way in (ranks.on_main, ranks.together):
        with pytest.raises(UserError, match="mine"):
            way(failing)


def test_the_main_process_works_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair(0, None, monkeypatch).on_main(lambda: 4) == 4
    second = pair(1, 4, monkeypatch)
    assert second.on_main(failing) == 4  # type: ignore[func-returns-value]
    with pytest.raises(RunFailure, match="its own"):
        pair(1, RunFailure("its own"), monkeypatch).on_main(lambda: 4)


def test_what_one_meets_by_itself_it_tells_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise FileNotFoundError("no such file")

    ranks = pair(1, OSError("disk full"), monkeypatch)
    with pytest.raises(RunFailure, match="process 1 of 2: no such file") as failure, ranks.apart():
        gone()
    assert failure.value.of_one_process
    # What all raise is said by one.
    with pytest.raises(OSError, match="disk full"), ranks.apart():
        ranks.on_main(gone)
    with pytest.raises(FileNotFoundError), Ranks(0, 1).apart():
        gone()


def test_a_folder_that_all_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_shared(tmp_path, Ranks(0, 1))
    (tmp_path / "token").touch()
    require_shared(tmp_path, pair(1, "token", monkeypatch), patience_s=0)
    with pytest.raises(UserError, match=r"is not the same folder for process 1"):
        require_shared(tmp_path, pair(1, "another", monkeypatch), patience_s=0)
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_what_one_meets_all_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair(0, None, monkeypatch).together(lambda: 4) == 4
    with pytest.raises(UserError, match="theirs"):
        pair(0, UserError("theirs"), monkeypatch).together(lambda: 4)
    with pytest.raises(UserError, match="mine"):
        pair(0, UserError("theirs"), monkeypatch).together(failing)
