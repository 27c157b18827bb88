"""A side in a process of its own: a line on standard input is a step, a line back its times.

`python -m aha.bench.worker SPEC` is the worker; `Worker` starts and asks one. One computes while
the others wait, so that none disturbs another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType

import torch

from aha.bench.workload import Spec, StepTimes
from aha.types import RunFailure

# TRL prints as well; only lines that begin so are for the benchmark.
_MARK = "@aha-bench "


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
        """One step's times. Errors: RunFailure with the worker's last line when it died."""
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
            if line.startswith(_MARK):
                return line.removeprefix(_MARK).strip()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:]
        raise RunFailure(f"benchmark of {self.spec.side} ended: {' '.join(last)}")


def in_turn(workers: Sequence[Worker], runs: int, warm_up: int = 1) -> list[list[StepTimes]]:
    """`runs` steps of every worker, A B C A B C ...: a list of steps for each worker."""
    results: list[list[StepTimes]] = [[] for _ in workers]
    for run in range(warm_up + runs):
        for worker, steps in zip(workers, results, strict=True):
            times = worker.step()
            if run >= warm_up:
                steps.append(times)
    return results


def _report(times: StepTimes) -> None:
    print(_MARK + json.dumps(asdict(times)), flush=True)


def _wait() -> bool:
    print(_MARK + "ready", flush=True)
    return bool(sys.stdin.readline().strip())


def main() -> None:
    spec = Spec.from_json(sys.argv[1])
    torch.set_num_threads(spec.threads)
    if spec.side != "native":
        from aha.bench import trl_side

        trl_side.run(spec, _wait, _report)
        return
    from aha.bench.native_side import NativeSide

    side, number = NativeSide(spec), 0
    while _wait():
        number += 1
        _report(side.step(number))


if __name__ == "__main__":
    main()
