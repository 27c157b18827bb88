"""The processes of a run: what they decide together, and the checkpoints they write together.

Every process runs the same command line. Only the main one makes the run directory, writes and
prints. Work of a single process is done inside `on_main` or `together`: its error is then raised
by all, and no process waits for ever.

A checkpoint is one folder a step, whole or absent, with checksums. transformers writes weights,
tokenizer, optimizer, schedule and each process's random streams, and DeepSpeed or FSDP their
shards, into a staging folder. When all processes are through, the main one adds the step and the
record's length, seals the folder and gives it its name. `aha eval`, `play`, `export` and
`--resume` read it like the native engine's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch.distributed as dist
from accelerate import DistributedType, PartialState

from aha.runs import RunDirectory
from aha.train.checkpoint import (
    Progress,
    checkpoint_step,
    publish_checkpoint,
    read_state,
    require_space,
    writing,
)
from aha.trl.config import COLLECTIVE_TIMEOUT_S, asked_for_fsdp
from aha.types import RunFailure, Stopped, UserError

_T = TypeVar("_T")
_ENGINE = "trl"
# Network file systems show a new file to other nodes after up to this long.
_PATIENCE_S = 60.0
# Errors that end a run with one sentence. Any other is a bug and keeps its traceback.
_Fault = UserError | RunFailure | OSError
_FAULTS = (UserError, RunFailure, OSError)


class Ranks:
    """This process among those that a launcher started; one alone without a launcher.

    `join` connects them first, which needs the launcher's address in the environment.
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
        """Connect DeepSpeed's processes: on a CPU accelerate does not, and each would be alone."""
        if self.count > 1:
            comm: Any = import_module("deepspeed.comm")
            if not comm.is_initialized():
                comm.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)

    def introduce_fsdp(self) -> None:
        """Let accelerate shard on CPUs as well: by itself it shards only among GPUs."""
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
        """Hold a run; when it ends in all processes together, disconnect them in order.

        Left to the interpreter's end, the threads that connect them can abort a process that is
        done, and its launcher would report a failure.
        """
        stopped: Stopped | None = None
        try:
            yield
        except Stopped as error:
            stopped = error
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()
        if stopped is not None:
            raise stopped

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Report an OSError of this process alone as its own.

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
        """Run `action` on the main process and return its result on all.

        Errors: the main process's UserError, RunFailure or OSError, on all.
        """
        result = [_outcome(action) if self.is_main else None]
        if self.count > 1:
            dist.broadcast_object_list(result, src=0)
        return self._opened(result)

    def together(self, action: Callable[[], _T]) -> _T:
        """Run `action` on every process; return its own result when all are through.

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


def require_shared(folder: Path, ranks: Ranks, patience_s: float = _PATIENCE_S) -> None:
    """Check that all processes see one folder.

    Under DeepSpeed every process writes its part of a checkpoint. On nodes with a disk each, the
    main process would seal a checkpoint that lacks the others' parts.
    Errors: UserError, on all processes, when one does not see what the main one writes there.
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


@dataclass(frozen=True)
class Resumed:
    """A checkpoint's state besides weights: how far the run was, and who sharded its files."""

    progress: Progress
    sharding: str


class Keeper:
    """Writes a run's checkpoints; TRL writes into `staging` first."""

    def __init__(self, run: RunDirectory, total_limit: int, updates_per_step: int) -> None:
        self._run = run
        self._total_limit = total_limit
        self._updates = updates_per_step
        self.staging = run.checkpoints / ".trl"

    def clear(self) -> None:
        """Remove what a killed process has left half written."""
        shutil.rmtree(self.staging, ignore_errors=True)

    @contextmanager
    def writing(self, trainer: Any) -> Iterator[Path]:
        """Give transformers a folder to write into.

        Errors: RunFailure for a disk that is too full or fails; earlier checkpoints stay whole.
        """
        if trainer.args.should_save and not trainer.is_sharded:
            parameters = [p for p in trainer.model.parameters() if p.requires_grad]
            trained = sum(p.numel() * p.element_size() for p in parameters)
            # The trained weights, and AdamW's two moments of each.
            require_space(self._run.checkpoints, 3 * trained)
        staged = self.staging / f"checkpoint-{trainer.state.global_step}"
        with writing(staged, self._run.checkpoints, self._step(trainer)):
            yield staged

    def publish(self, staged: Path, trainer: Any) -> None:
        """Seal the folder and give it its name among the checkpoints. Main process only."""
        step = self._step(trainer)
        state = {
            "engine": _ENGINE,
            "step": step,
            "record_bytes": self._run.record_bytes(),
            "sharding": sharding(trainer.args),
        }
        publish_checkpoint(staged, self._run.checkpoints, step, state, self._total_limit)

    def _step(self, trainer: Any) -> int:
        return int(trainer.state.global_step) // self._updates


def sharding(arguments: Any) -> str:
    """The library that shards the optimizer's state; only it can read the state again."""
    if arguments.deepspeed_plugin is not None:
        return "deepspeed"
    return "fsdp" if asked_for_fsdp() else "none"


def read_resumed(checkpoint: Path) -> Resumed:
    """Read a whole checkpoint's state. Errors: UserError for one of another engine."""
    state = read_state(checkpoint)
    if state.get("engine") != _ENGINE:
        raise UserError(
            f"{checkpoint} was written by engine native; a run goes on under its own engine."
        )
    if state["step"] != checkpoint_step(checkpoint):
        raise RunFailure(f"{checkpoint}: its state is of step {state['step']}.")
    return Resumed(Progress(state["step"], state["record_bytes"]), state["sharding"])


def require_same_sharding(resumed: Resumed, arguments: Any) -> None:
    """Errors: UserError where the optimizer's state could not be read back."""
    here = sharding(arguments)
    if resumed.sharding != here:
        raise UserError(
            f"--resume: the run's checkpoints were written with sharding {resumed.sharding!r}, and "
            f"it is {here!r} now; launch it as before."
        )
