"""Whether the processes of a run see one folder.

Under DeepSpeed every process writes its part of a checkpoint. On nodes with a disk each, the main
process would seal a checkpoint that lacks the others' parts.
"""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

from aha.trl.ranks import Ranks
from aha.types import UserError

# Network file systems show a new file to other nodes after up to this long.
_PATIENCE_S = 60.0


def require_shared(folder: Path, ranks: Ranks, patience_s: float = _PATIENCE_S) -> None:
    """Errors: UserError, on all processes, when one does not see what the main one writes there."""
    token = ranks.on_main(lambda: _leave(folder))
    try:
        ranks.together(lambda: _look(folder / token, ranks.index, patience_s))
    finally:
        ranks.on_main(lambda: (folder / token).unlink(missing_ok=True))


def _leave(folder: Path) -> str:
    token = f".seen-{uuid4().hex}"
    (folder / token).touch()
    return token


def _look(path: Path, index: int, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"the run directory {str(path.parent)!r} is not the same folder for process "
                f"{index}: with DeepSpeed each process writes its part of a checkpoint, so it must "
                "lie where all nodes see it."
            )
        time.sleep(0.5)
