"""The processes of a run: what they decide together.

Every process runs the same command line. Only the main one makes the run directory, writes and
prints. Work of a single process is done inside `on_main` or `together`: its UserError, RunFailure
or OSError is then raised by all, and no process waits for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch.distributed as dist
from accelerate import PartialState

from aha.trl.config import COLLECTIVE_TIMEOUT_S
from aha.types import RunFailure, Stopped, UserError

_T = TypeVar("_T")
# Errors that end a run with one sentence. Any other is a bug and keeps its traceback.
_FAULTS = (UserError, RunFailure, OSError)


@dataclass
class Ranks:
    """This process among those that a launcher started; one alone without a launcher."""

    index: int
    count: int
    _shared: BaseException | None = None

    @classmethod
    def join(cls, on_cpu: bool) -> Ranks:
        """Connect the processes at the address that a launcher put into the environment."""
        state = PartialState(cpu=on_cpu, timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def gather(self, value: _T) -> list[_T]:
        """Every process's value, in order, on every process."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def holding(self, enter: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T]:
        """Hold a run, whose lock the main process has; at its end disconnect all in order.

        Left to the interpreter's end, the threads that connect them can abort a process that is
        done, and its launcher would report a failure.
        """
        stopped: Stopped | None = None
        try:
            with ExitStack() as stack:
                yield self.on_main(lambda: stack.enter_context(enter()))
        except Stopped as error:
            stopped = error
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()
        if stopped is not None:
            raise stopped

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Report an OSError of this process alone as its own. Errors: RunFailure."""
        try:
            yield
        except OSError as error:
            if self.count == 1 or error is self._shared:
                raise
            raise RunFailure(
                f"process {self.index} of {self.count}: {error}. Mend that, then --resume.",
                of_one_process=True,
            ) from error

    def on_main(self, action: Callable[[], _T]) -> _T:
        """Run `action` on the main process; its result, or its error, reaches all."""
        result = [_outcome(action) if self.is_main else None]
        if self.count > 1:
            dist.broadcast_object_list(result, src=0)
        return self._opened(result)

    def together(self, action: Callable[[], _T]) -> _T:
        """Run `action` on every process; the first one's error is raised by all."""
        mine = _outcome(action)
        faults = self.gather(mine if isinstance(mine, _FAULTS) else None)
        return self._opened([fault for fault in faults if fault is not None] or [mine])

    def _opened(self, outcomes: list[Any]) -> Any:
        if isinstance(outcomes[0], _FAULTS):
            self._shared = outcomes[0]
            raise outcomes[0]
        return outcomes[0]


def _outcome(action: Callable[[], _T]) -> _T | Exception:
    try:
        return action()
    except _FAULTS as error:
        return error


def require_shared(folder: Path, ranks: Ranks, patience_s: float = 60.0) -> None:
    """Check that all processes see one folder, where a network may show a new file late.

    Else a DeepSpeed checkpoint would lack the other nodes' parts. Errors: UserError, on all.
    """

    def leave() -> str:
        token = f".seen-{uuid4().hex}"
        (folder / token).touch()
        return token

    def look() -> None:
        deadline = time.monotonic() + patience_s
        while not (folder / token).exists():
            if time.monotonic() > deadline:
                raise UserError(
                    f"the run directory {str(folder)!r} is not the same folder for process "
                    f"{ranks.index}: with DeepSpeed each process writes its part of a checkpoint, "
                    "so it must lie where all nodes see it."
                )
            time.sleep(0.5)

    token = ranks.on_main(leave)
    try:
        ranks.together(look)
    finally:
        ranks.on_main(lambda: (folder / token).unlink(missing_ok=True))
