"""TensorBoard: every number of a step's record, under its own name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aha.observe.services import scalars
from aha.types import Group


class TensorBoardObserver:
    """Writes event files; on resume, steps after `resumed_at` are purged."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = resumed_at + 1 if resumed_at else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def note(self, message: str) -> None:
        """Notes are for the console."""

    def close(self) -> None:
        self._writer.close()
