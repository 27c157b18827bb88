"""Starting and resuming a run from the command line: observers, the loop, the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console

from aha.model.free_memory import keep_freed_memory
from aha.observe import Observer
from aha.observe.reporter import StepReporter, observers_of, require_services
from aha.recipe import Recipe
from aha.rewards import CustomReward
from aha.runs import RunDirectory
from aha.train.checkpoint import newest_valid
from aha.train.loop import train
from aha.train.state import TrainingState, prepare
from aha.train.stop import StopRequest
from aha.types import RunFailure, Stopped


def start_run(
    recipe: Recipe,
    output: Path | None,
    functions: Mapping[str, CustomReward] = MappingProxyType({}),
    observers: Sequence[Observer] = (),
) -> RunDirectory:
    """A new run, from the first step to its report.

    `functions`: as for `rewards_of`. `observers` follow the run beside those of the recipe.
    """
    keep_freed_memory()
    if output is not None:
        RunDirectory.require_new(output)
    require_services(recipe.logging)
    stop = StopRequest(recipe.train.max_hours)
    # Model, rewards and data are loaded before a folder is made: most mistakes show there.
    state = prepare(recipe, None, functions=functions)
    decoding = state.engine.decoding
    facts: dict[str, Any] = {} if decoding is None else {"decoding": asdict(decoding)}
    if state.policy.model.device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    with RunDirectory.begun(recipe, output, facts) as run:
        return _run(state, run, "", stop, observers=observers)


def resume_run(
    path: Path,
    overrides: Sequence[str] = (),
    allow_change: bool = False,
    functions: Mapping[str, CustomReward] = MappingProxyType({}),
    observers: Sequence[Observer] = (),
) -> RunDirectory:
    """Go on with a run from its newest whole checkpoint, or from the start when it has none.

    `overrides` change its recipe; one that would change the meaning of the steps that are done is
    refused unless `allow_change`. The others: as for `start_run`.
    """
    keep_freed_memory()
    run = RunDirectory.open(path)
    with run.locked():
        recipe, changed = run.resumed_recipe(overrides, allow_change)
        require_services(recipe.logging)
        found = newest_valid(run)
        decoded = run.environment().get("decoding", {}).get("path", "")
        state = prepare(recipe, found.path, decoded, functions)
        lost = run.rewind(found.step, found.record_bytes or dict.fromkeys(run.record_bytes(), 0))
        if changed:
            run.change_recipe(recipe, found.step)
        for record in run.metrics():
            # The same microbatches as before: others would round differently.
            state.tokens_per_microbatch = record["tokens_per_microbatch"]
        notes = [*found.faults, *(f"changed {change}" for change in changed)]
        stop = StopRequest(recipe.train.max_hours)
        return _run(state, run, where_from(found.step, lost), stop, notes, observers)


def where_from(done: int, lost: int) -> str:
    """For the message about the run directory: where a resumed run goes on."""
    where = f"from the checkpoint of step {done}" if done else "no checkpoint yet: from step 1"
    return f" ({where}; {lost} later steps are done again)"


def _run(
    state: TrainingState,
    run: RunDirectory,
    how: str,
    stop: StopRequest,
    notes: Sequence[str] = (),
    observers: Sequence[Observer] = (),
) -> RunDirectory:
    own = observers_of(state.recipe, run, Console(), state.done)
    reporter = StepReporter(state.recipe, run, [*own, *observers])
    for note in (f"run directory: {run.path}{how}", *notes):
        reporter.note(note)
    started = time.monotonic()
    with watched(run, reporter, stop):
        train(state, run, reporter, stop)
    finish(run, reporter, (time.monotonic() - started) / 60)
    return run


@contextmanager
def watched(run: RunDirectory, reporter: StepReporter, stop: StopRequest) -> Iterator[None]:
    """While inside, signals reach `stop`; however it ends, the observers are closed.

    Errors: Stopped and RunFailure, which say how to go on.
    """
    try:
        with stop.listening():
            yield
    except Stopped as stopped:
        raise Stopped(f"{stopped}; go on with --resume {run.path}", stopped.code) from None
    except OSError as error:
        raise RunFailure(
            f"{run.path} could not be written: {error}. Mend that, then --resume {run.path}."
        ) from error
    finally:
        reporter.close()


def finish(run: RunDirectory, reporter: StepReporter, minutes: float) -> None:
    """Write the report of a run that came to its end, and say where it is."""
    from aha.report.pages import build_report

    reporter.note(f"done in {minutes:.1f} minutes; report: {build_report(run)}")
