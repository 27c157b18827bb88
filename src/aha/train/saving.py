"""When checkpoints are written: between steps, or beside them in a thread of its own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.train.checkpoint import Progress, save_checkpoint, snapshot


class Saver:
    """Writes a run's checkpoints, one at a time.

    In the background a copy of weights and optimizer is taken first, so training goes on while it
    is written and the files are the same; it costs that much memory more. A fault of the disk is
    raised by the next `save` or by `finish`.
    """

    def __init__(self, folder: Path, total_limit: int, background: bool) -> None:
        self._folder = folder
        self._total_limit = total_limit
        self._pool = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._writing: Future[Path] | None = None

    def save(
        self,
        progress: Progress,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.finish()
        taken = snapshot(progress, model, optimizer, copy=self._pool is not None)
        what = (self._folder, taken, model, tokenizer, self._total_limit)
        if self._pool is None:
            save_checkpoint(*what)
        else:
            self._writing = self._pool.submit(save_checkpoint, *what)

    def finish(self) -> None:
        """Wait for what is being written. Errors: RunFailure, as `save_checkpoint`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
