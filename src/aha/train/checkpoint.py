"""Checkpoints: a folder that transformers loads, plus everything a run needs to go on.

A step's random draws are functions of (seed, step), so besides weights and optimizer the state is
small: the step, the lengths of the record's files, and the global random streams, which only a
user's own rewards may use. A folder is written under a temporary name, flushed to disk and renamed
when complete. `checksums.json` holds every file's digest, so that later damage is noticed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.model.gguf import checksum
from aha.model.lora import has_adapters, save_adapters, trained_state
from aha.runs import RunDirectory
from aha.sections import TrainSection
from aha.types import RunFailure

_STATE = "trainer_state.pt"
_CHECKSUMS = "checksums.json"
# Errors of a failing disk, as Python, safetensors and torch.save raise them.
_WRITE_FAULTS = (OSError, SafetensorError, RuntimeError)
# Beside the tensors: configuration, tokenizer, checksums.
_SMALL_FILES_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that can be used, and a sentence on each newer one that cannot.

    `step` is the last that is done, and `record_bytes` the lengths of the record's files then.
    """

    path: Path | None = None
    step: int = 0
    record_bytes: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


class Saver:
    """Writes a run's checkpoints, one at a time.

    `reference`: the KL term's model, if it changes during the run and must be saved too.
    With `save_in_background` it first copies weights and optimizer, so that training continues
    while the same files are written; the copy costs that much memory. The next `save` or `finish`
    raises an error of the disk.
    """

    def __init__(
        self,
        run: RunDirectory,
        settings: TrainSection,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: torch.optim.Optimizer,
        reference: PreTrainedModel | None = None,
    ) -> None:
        self._run, self._settings, self._reference = run, settings, reference
        self._model, self._tokenizer, self._optimizer = model, tokenizer, optimizer
        self._pool = ThreadPoolExecutor(1, "checkpoint") if settings.save_in_background else None
        self._writing: Future[None] | None = None

    def save(self, step: int) -> None:
        """Save the state after `step`, and remove the oldest beyond `save_total_limit`.

        Errors: RunFailure when the disk is too full or fails; earlier checkpoints are intact then.
        """
        self.finish()
        weights = trained_state(self._model)
        reference = {} if self._reference is None else dict(self._reference.named_parameters())
        version, words, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()
        # Tensors and plain values only, so that loading runs no code.
        state = {
            "step": step,
            "record_bytes": self._run.record_bytes(),
            "optimizer": self._optimizer.state_dict(),
            "reference": {name: tensor.detach() for name, tensor in reference.items()},
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "python_rng": [version, list(words), gauss],
            "numpy_rng": [str(name), np.asarray(keys).tolist(), *rest],
        }
        if self._pool is None:
            self._write(step, weights, state)
        else:
            copies: dict[tuple[int, torch.Size], Tensor] = {}
            weights, state = _copied(weights, copies), _copied(state, copies)
            self._writing = self._pool.submit(self._write, step, weights, state)

    def finish(self) -> None:
        """Wait until the checkpoint is written. Errors: RunFailure, as `save`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, step: int, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        folder = self._run.checkpoints
        staged = folder / f".step-{step:06d}.tmp"
        shutil.rmtree(staged, ignore_errors=True)
        tensors = [*weights.values(), *state["reference"].values()]
        for moments in state["optimizer"]["state"].values():
            for value in moments.values():
                # In 8 bits the tensors are one level deeper.
                inner = value.values() if isinstance(value, dict) else [value]
                tensors += [each for each in inner if isinstance(each, Tensor)]
        require_space(folder, sum(x.numel() * x.element_size() for x in tensors))
        with writing(staged, folder, step):
            # Only the configuration of the model is read, because training may be going on.
            if has_adapters(self._model):
                save_adapters(self._model, weights, staged)
            else:
                self._model.save_pretrained(staged, state_dict=weights)
            self._tokenizer.save_pretrained(staged)
        publish_checkpoint(staged, folder, step, state, self._settings.save_total_limit)


def _copied(value: Any, copies: dict[tuple[int, torch.Size], Tensor]) -> Any:
    """A copy on the CPU. Tied weights stay one tensor, so that they are written once."""
    if isinstance(value, dict):
        return {key: _copied(inner, copies) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner, copies) for inner in value]
    if not isinstance(value, Tensor):
        return value
    place = (value.data_ptr(), value.shape)
    if place not in copies:
        copies[place] = value.detach().to("cpu", copy=True)
    return copies[place]


@contextmanager
def writing(staged: Path, folder: Path, step: int) -> Iterator[None]:
    """Remove the unfinished folder `staged` if writing it fails.

    Errors: RunFailure when the disk fails; earlier checkpoints are intact then.
    """
    try:
        yield
    except _WRITE_FAULTS as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise RunFailure(
            f"{folder / f'step-{step:06d}'} could not be written: {error}. {_left(folder)}"
        ) from error


def publish_checkpoint(
    staged: Path, folder: Path, step: int, state: Mapping[str, Any], total_limit: int
) -> Path:
    """Turn the folder `staged` into the checkpoint `folder`/step-NNNNNN, and read it back.

    `state` is added to it, and the oldest checkpoints beyond `total_limit` are removed. `staged`
    must be on the same file system, because it is renamed. Errors: RunFailure as `writing`, or if
    the files do not read back.
    """
    final = folder / f"step-{step:06d}"
    with writing(staged, folder, step):
        torch.save(dict(state), staged / _STATE)
        _seal(staged)
        if final.exists():
            shutil.rmtree(final)
        os.replace(staged, final)
        _flush(folder)
    if fault := damage(final):
        raise RunFailure(f"{fault} It was just written: the disk is not to be trusted.")
    for old in list_checkpoints(folder)[:-total_limit]:
        shutil.rmtree(old)
    return final


def read_state(checkpoint: Path, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint's state besides the weights: tensors and plain values, no code.

    `mapped`: tensors stay in the file until they are read.
    Errors: RunFailure if the state is another checkpoint's.
    """
    state: dict[str, Any] = torch.load(
        checkpoint / _STATE, weights_only=True, map_location="cpu", mmap=mapped
    )
    if state["step"] != int(checkpoint.name.removeprefix("step-")):
        raise RunFailure(f"{checkpoint}: its state is of step {state['step']}.")
    return state


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first. Damage is not checked."""
    return sorted(path for path in folder.glob("step-*") if (path / _STATE).is_file())


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, or None. Damage is not checked."""
    checkpoints = list_checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def newest_valid(run: RunDirectory) -> Found:
    """The newest checkpoint whose files are undamaged and whose record is complete, if any.

    Errors: RunFailure when there are checkpoints and none can be used.
    """
    faults: list[str] = []
    for path in sorted(run.checkpoints.glob("step-*"), reverse=True):
        fault = damage(path)
        if fault is None:
            state = read_state(path, mapped=True)
            # In an incomplete copy of a run the record may end before the checkpoint.
            short = run.shortened(state["record_bytes"])
            if short is None:
                return Found(path, state["step"], state["record_bytes"], tuple(faults))
            fault = f"{path} is passed over: {short.name} ends before it."
        faults.append(fault)
    if faults:
        raise RunFailure(
            f"no checkpoint is whole: {' '.join(faults)} Remove {run.checkpoints} to begin again."
        )
    return Found()


def damage(checkpoint: Path) -> str | None:
    """A sentence that names the damage of a checkpoint's files, or None."""
    try:
        expected: dict[str, str] = json.loads((checkpoint / _CHECKSUMS).read_text("utf-8"))
        for name, digest in expected.items():
            if not (checkpoint / name).is_file():
                return f"{checkpoint} is damaged: {name} is missing."
            if checksum(checkpoint / name) != digest:
                return f"{checkpoint} is damaged: {name} is not what was written."
    except (OSError, ValueError, AttributeError) as error:
        return f"{checkpoint} is damaged: {_CHECKSUMS} cannot be read ({type(error).__name__})."
    return None if _STATE in expected else f"{checkpoint} is damaged: {_STATE} is missing."


def restore(
    checkpoint: Path, optimizer: torch.optim.Optimizer, reference: PreTrainedModel | None = None
) -> int:
    """Load the optimizer, the random streams and a reference; returns the checkpoint's step.

    Errors: RunFailure if the state is another checkpoint's.
    """
    state = read_state(checkpoint)
    optimizer.load_state_dict(state["optimizer"])
    # A checkpoint from before resets were switched on has none: the reference is the start.
    if reference is not None:
        for name, tensor in state.get("reference", {}).items():
            reference.get_parameter(name).data.copy_(tensor)
    torch.set_rng_state(state["torch_rng"])
    if torch.cuda.is_available() and state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    version, words, gauss = state["python_rng"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy_rng"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    return int(state["step"])


def require_space(folder: Path, tensors_bytes: int) -> None:
    """Check the free space for a checkpoint. Errors: RunFailure if its tensors would not fit."""
    needed = tensors_bytes + _SMALL_FILES_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunFailure(
            f"a checkpoint needs {needed / 2**20:,.0f} MiB and {folder} has {free / 2**20:,.0f} "
            f"MiB left; free some, then --resume. {_left(folder)}"
        )


def _left(folder: Path) -> str:
    newest = latest_checkpoint(folder)
    return f"The last checkpoint is {newest}." if newest else "There is no earlier checkpoint."


def _seal(folder: Path) -> None:
    """Write the checksums and flush every file to disk."""
    inside = sorted(folder.rglob("*"))
    files = [path for path in inside if path.is_file()]
    digests = {path.relative_to(folder).as_posix(): checksum(path) for path in files}
    sums = folder / _CHECKSUMS
    sums.write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    for path in (*inside, sums, folder):
        _flush(path)


def _flush(path: Path) -> None:
    folder = path.is_dir()
    if folder and not hasattr(os, "O_DIRECTORY"):  # Windows cannot open one
        return
    # Windows flushes only what was opened for writing.
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
