"""Workers in turn: one computes while the others wait, so that none disturbs another."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from aha.bench.spec import Spec, StepTimes
from aha.bench.worker import MARK
from aha.types import RunFailure


class Worker:
    """A side in a process of its own, at work only between `step`'s call and return."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        # A file, because nobody reads a pipe while the worker computes.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "aha.bench.worker", spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Worker:
        self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def step(self) -> StepTimes:
        """One step's times. Errors: RunFailure with the worker's last words when it died."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write("step\n")
        stdin.flush()
        times = StepTimes(**json.loads(self._read()))
        self._read()
        return times

    def _read(self) -> str:
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK).strip()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:]
        raise RunFailure(f"benchmark of {self.spec.side} ended: {' '.join(last)}")


@dataclass(frozen=True)
class Ratio:
    """Paired ratios: the median, and the lowest and highest of the runs."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
        values = [a / b for a, b in zip(numerators, denominators, strict=True)]
        return Ratio(statistics.median(values), min(values), max(values))


def in_turn(workers: Sequence[Worker], runs: int, warm_up: int = 1) -> list[list[StepTimes]]:
    """`runs` steps of every worker, A B C A B C ...; a list of steps a worker."""
    results: list[list[StepTimes]] = [[] for _ in workers]
    for run in range(warm_up + runs):
        for worker, steps in zip(workers, results, strict=True):
            times = worker.step()
            if run >= warm_up:
                steps.append(times)
    return results
