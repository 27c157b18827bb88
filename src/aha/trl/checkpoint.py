"""Checkpoints of TRL's trainer as aha's: one folder a step, whole or absent, with checksums.

transformers writes weights, tokenizer, optimizer, schedule and each process's random streams, and
DeepSpeed or FSDP their shards, into a folder of its own. When all processes are through, the main
one adds the step and the record's length, seals the folder and gives it its name. It is then a
folder that `aha eval`, `play`, `export` and `--resume` read like the native engine's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha.runs import RunDirectory
from aha.train.checkpoint import (
    Progress,
    checkpoint_step,
    publish_checkpoint,
    read_state,
    require_space,
    writing,
)
from aha.trl.config import asked_for_fsdp
from aha.types import RunFailure, UserError

_ENGINE = "trl"


@dataclass(frozen=True)
class Resumed:
    """What a checkpoint says besides weights: how far the run was, and who sharded its files."""

    progress: Progress
    sharding: str


class Keeper:
    """Where a run's checkpoints go; TRL writes into `staging` first."""

    def __init__(self, run: RunDirectory, total_limit: int, updates_per_step: int) -> None:
        self._run = run
        self._total_limit = total_limit
        self._updates = updates_per_step
        self.staging = run.checkpoints / ".trl"

    def clear(self) -> None:
        """Remove what a process that was killed has left half written."""
        shutil.rmtree(self.staging, ignore_errors=True)

    @contextmanager
    def writing(self, trainer: Any) -> Iterator[Path]:
        """Where transformers writes while inside.

        Errors: RunFailure for a disk that is too full or fails; what was saved stays whole.
        """
        if trainer.args.should_save and not trainer.is_sharded:
            parameters = [p for p in trainer.model.parameters() if p.requires_grad]
            trained = sum(p.numel() * p.element_size() for p in parameters)
            # What is trained, and AdamW's two moments of it.
            require_space(self._run.checkpoints, 3 * trained)
        staged = self.staging / f"checkpoint-{trainer.state.global_step}"
        with writing(staged, self._run.checkpoints, self._step(trainer)):
            yield staged

    def publish(self, staged: Path, trainer: Any) -> None:
        """Give what is written its place among the run's checkpoints. Main process only."""
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
    """Who will hold the optimizer's state under a GRPOConfig, and so who can read it again."""
    if arguments.deepspeed_plugin is not None:
        return "deepspeed"
    return "fsdp" if asked_for_fsdp() else "none"


def read_resumed(checkpoint: Path) -> Resumed:
    """What a whole checkpoint says. Errors: UserError for one of another engine."""
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
