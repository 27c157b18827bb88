"""Checkpoints: a folder that transformers loads, plus the optimizer's state.

A run's random streams and data order are functions of (seed, step), so the step is all the
state there is besides weights and optimizer. A folder is written under another name and
renamed when whole: one that has its name is complete.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.types import RunFailure

_STATE = "trainer_state.pt"


def save_checkpoint(
    folder: Path,
    step: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    total_limit: int,
) -> Path:
    """Write `folder`/step-NNNNNN and remove the oldest beyond `total_limit`."""
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    torch.save({"step": step, "optimizer": optimizer.state_dict()}, temporary / _STATE)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    for old in list_checkpoints(folder)[:-total_limit]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / _STATE).is_file())


def latest_checkpoint(folder: Path) -> Path | None:
    checkpoints = list_checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def restore_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimizer's state. Errors: RunFailure when it does not fit the checkpoint."""
    state: dict[str, Any] = torch.load(checkpoint / _STATE, weights_only=True, map_location="cpu")
    if state["step"] != checkpoint_step(checkpoint):
        raise RunFailure(f"{checkpoint}: its state is of step {state['step']}.")
    optimizer.load_state_dict(state["optimizer"])
