"""Work in a process of its own, so that its time and its peak memory are only its own.

A worker and its caller talk over a pipe. Of several workers one computes while the others wait.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from multiprocessing.connection import Connection
from typing import Any

import torch

from aha.bench.workload import Spec, StepTimes
from aha.types import RunFailure, UserError


class Worker(AbstractContextManager["Worker"]):
    """A process that runs `work(argument, connection)`; it is ended when the context is left.

    `work` is a function of a module, `argument` can be pickled.
    """

    def __init__(self, name: str, work: Callable[[Any, Connection], None], argument: Any) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(work, argument, theirs))
        self._process.start()
        theirs.close()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def receive(self) -> Any:
        """The next object the work sends. Errors: those of the work; RunFailure when it died."""
        try:
            value = self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            why = f"ended with code {self._process.exitcode}"
            if self._process.exitcode == -9:
                why = "was killed (signal 9), most likely for want of memory"
            raise RunFailure(f"{self._name} {why}.") from None
        if isinstance(value, Exception):
            raise value
        return value


def _run(work: Callable[[Any, Connection], None], argument: Any, connection: Connection) -> None:
    # Libraries and rewards may print; only the pipe is for the caller.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        work(argument, connection)
    except (UserError, RunFailure) as error:
        connection.send(error)
    except Exception as error:
        connection.send(RunFailure(f"{type(error).__name__}: {error}"))


def in_turn(specs: Sequence[Spec], runs: int, warm_up: int = 1) -> list[list[StepTimes]]:
    """`runs` steps of every side, A B C A B C ...: a list of steps for each spec.

    Errors: RunFailure for a side that fails.
    """
    results: list[list[StepTimes]] = [[] for _ in specs]
    workers: list[Worker] = []
    with ExitStack() as stack:
        for spec in specs:
            workers.append(stack.enter_context(Worker(f"benchmark of {spec.side}", _side, spec)))
            workers[-1].receive()
        for run in range(warm_up + runs):
            for worker, steps in zip(workers, results, strict=True):
                worker.connection.send(None)
                times = worker.receive()
                worker.receive()
                if run >= warm_up:
                    steps.append(times)
    return results


def _side(spec: Spec, connection: Connection) -> None:
    """Build a side, then take a step for each object received; sends None when ready for one."""
    torch.set_num_threads(spec.threads)

    def wait() -> None:
        connection.send(None)
        connection.recv()

    try:
        if spec.side != "native":
            from aha.bench import trl_side

            trl_side.run(spec, wait, connection.send)
        from aha.bench.native_side import NativeSide

        side = NativeSide(spec)
        for number in itertools.count(1):
            wait()
            connection.send(side.step(number))
    except UserError as error:
        raise RunFailure(f"benchmark of {spec.side} ended: {error}") from None
