"""The processes of a run, and what they do and decide together.

Every process runs the same command line. The main one alone makes the run directory, writes and
speaks. What only one of them does is done inside `on_main` or `together`, so that an error that it
meets is raised by all, and none waits for another for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import DistributedType, PartialState

from aha.trl.config import COLLECTIVE_TIMEOUT_S
from aha.types import RunFailure, Stopped, UserError

_T = TypeVar("_T")
# What a run can end with in a sentence; anything else is a fault of ours, and shows as one.
_Fault = UserError | RunFailure | OSError
_FAULTS = (UserError, RunFailure, OSError)


class Ranks:
    """This process among those that a launcher started; alone without one.

    `join` meets the others first, which needs the launcher's address in the environment.
    """

    def __init__(self, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self._shared: BaseException | None = None

    @classmethod
    def join(cls, on_cpu: bool) -> Ranks:
        state = PartialState(cpu=on_cpu, timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
        return cls(state.process_index, state.num_processes)

    def introduce_deepspeed(self) -> None:
        """Tell DeepSpeed of the others; on a CPU accelerate does not, and it would load alone."""
        if self.count > 1:
            comm: Any = import_module("deepspeed.comm")
            if not comm.is_initialized():
                comm.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)

    def introduce_fsdp(self) -> None:
        """Let accelerate shard on CPUs as well: it does so only among what it takes for GPUs."""
        state = PartialState()
        if state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU

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

    def collect(self, value: _T) -> list[_T]:
        """Every process's value, in order, on the main process; nothing elsewhere."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    @contextmanager
    def parting(self) -> Iterator[None]:
        """While inside, a run; when it ends in all processes together, they part in order.

        Left to the interpreter's end, the threads that connect them can abort a process that is
        done, which its launcher takes for a failure.
        """
        try:
            yield
        except Stopped:
            self._part()
            raise
        self._part()

    def _part(self) -> None:
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """While inside, what the system refuses to this process alone is told as its own.

        Errors: RunFailure of one process.
        """
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
        """What `action` returns on the main process, on all; it runs there only.

        Errors: the main process's UserError, RunFailure or OSError, on all.
        """
        result = [_outcome(action) if self.is_main else None]
        if self.count > 1:
            dist.broadcast_object_list(result, src=0)
        return self._opened(result)

    def together(self, action: Callable[[], _T]) -> _T:
        """What `action` returns here, once it has returned everywhere.

        Errors: the first process's UserError, RunFailure or OSError, on all.
        """
        mine = _outcome(action)
        faults = self.gather(mine if isinstance(mine, _Fault) else None)
        return self._opened([fault for fault in faults if fault is not None] or [mine])

    def _opened(self, outcomes: list[Any]) -> Any:
        if isinstance(outcomes[0], _Fault):
            self._shared = outcomes[0]
            raise outcomes[0]
        return outcomes[0]


def _outcome(action: Callable[[], _T]) -> _T | _Fault:
    try:
        return action()
    except _FAULTS as error:
        return error
