"""What processes do together, told to one of two whose other half is made up."""

from __future__ import annotations

from typing import Any

import pytest

from aha.backends.trl import ranks as module
from aha.backends.trl.ranks import Ranks
from aha.types import RunFailure, UserError


class Other:
    """torch.distributed with one more process, which says `value`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def all_gather_object(self, values: list[Any], mine: Any) -> None:
        values[:] = [mine, self.value]

    def gather_object(self, mine: Any, values: list[Any] | None, dst: int) -> None:
        if values is not None:
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
    assert ranks.gather(3) == ranks.collect(3) == [3]
    assert ranks.on_main(lambda: 4) == ranks.together(lambda: 4) == 4
    for way in (ranks.on_main, ranks.together):
        with pytest.raises(UserError, match="mine"):
            way(failing)


def test_the_main_process_works_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair(0, None, monkeypatch).on_main(lambda: 4) == 4
    second = pair(1, 4, monkeypatch)
    assert second.on_main(failing) == 4  # type: ignore[func-returns-value]
    assert second.collect(5) == []
    with pytest.raises(RunFailure, match="its own"):
        pair(1, RunFailure("its own"), monkeypatch).on_main(lambda: 4)


def test_what_one_meets_all_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair(0, None, monkeypatch).together(lambda: 4) == 4
    with pytest.raises(UserError, match="theirs"):
        pair(0, UserError("theirs"), monkeypatch).together(lambda: 4)
    with pytest.raises(UserError, match="mine"):
        pair(0, UserError("theirs"), monkeypatch).together(failing)
