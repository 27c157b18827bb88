"""Starting and resuming a run on TRL: what `aha train --engine trl` does in every process."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from aha.evaluate.evaluation import RunEvaluator
from aha.model.load import choose_device
from aha.observe.reporter import StepReporter, observers_of
from aha.observe.services import require_services
from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory
from aha.train.checkpoint import newest_valid
from aha.train.start import finish, watched, where_from
from aha.train.stop import StopRequest
from aha.trl.checkpoint import Keeper, read_resumed, require_same_sharding
from aha.trl.conductor import Conductor
from aha.trl.config import (
    asked_for_fsdp,
    check,
    check_deepspeed,
    config_arguments,
    processes,
    require_vllm_server,
    trl_section,
)
from aha.trl.materials import (
    Materials,
    Policy,
    load_materials,
    load_policy,
    rows_that_fit,
    uses_bfloat16,
)
from aha.trl.measure import measure
from aha.trl.plan import BatchPlan, batch_plan
from aha.trl.ranks import Ranks
from aha.trl.shared import require_shared
from aha.trl.trainer import RecipeTrainer
from trl import GRPOConfig

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Built:
    """What a run is made of, before it has a folder."""

    ranks: Ranks
    materials: Materials
    plan: BatchPlan
    arguments: Any
    policy: Policy


@dataclass(frozen=True)
class _From:
    """Where a run goes on: a checkpoint or nothing, the step it is of, and what to say of it."""

    checkpoint: Path | None = None
    step: int = 0
    how: str = ""
    notes: tuple[str, ...] = ()


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers and TRL will do otherwise one day is not the user's to mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|torch")
        yield


@_quiet()
def start_run(recipe: Recipe, output: Path | None) -> RunDirectory:
    """A new run, from the first step to its report, in every process that a launcher started.

    Errors: UserError, RunFailure and Stopped as the native engine's, in all processes together.
    """
    check(recipe, processes())
    stop = StopRequest(recipe.train.max_hours)
    ranks = _join(recipe)
    if output is not None:
        ranks.on_main(lambda: RunDirectory.require_new(output))
    # Model, rewards and data are loaded before a folder is made: most mistakes show there.
    built = _build(recipe, ranks)
    with ranks.parting(), _held(ranks, lambda: RunDirectory.begun(recipe, output)) as run:
        return _run(built, run, _From(), stop)


@_quiet()
def resume_run(
    path: Path, overrides: Sequence[str] = (), allow_change: bool = False
) -> RunDirectory:
    """Go on with a run from its newest whole checkpoint, or from the start when it has none.

    The same number of processes draws the same completions again; another number goes on with the
    same problems, weights and schedule. Errors: as natively, and UserError for a checkpoint that
    this launch could not read.
    """
    run = RunDirectory.open(path)
    recipe = load_recipe(str(path / "recipe.yaml"), overrides)
    check(recipe, processes())
    stop = StopRequest(recipe.train.max_hours)
    ranks = _join(recipe)
    # Files named in it may lie elsewhere on every node; the main process's word is all of theirs.
    _, changed = ranks.on_main(lambda: run.resumed_recipe(overrides, allow_change))
    with ranks.parting(), _held(ranks, run.locked):
        found = ranks.on_main(lambda: newest_valid(run))
        resumed = None if found.path is None else read_resumed(found.path)
        built = _build(recipe, ranks)
        if resumed is not None:
            require_same_sharding(resumed, built.arguments)
        done = resumed.progress.step if resumed else 0
        lengths = resumed.progress.record_bytes if resumed else {}
        lost = ranks.on_main(
            lambda: run.rewind(done, lengths or dict.fromkeys(run.record_bytes(), 0))
        )
        if changed:
            ranks.on_main(lambda: run.change_recipe(recipe, done))
        notes = (*found.faults, *(f"changed {change}" for change in changed))
        return _run(built, run, _From(found.path, done, where_from(done, lost), notes), stop)


@contextmanager
def _held(ranks: Ranks, enter: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T]:
    """The run is this launch's while inside; the main process has its lock."""
    with ExitStack() as stack:
        yield ranks.on_main(lambda: stack.enter_context(enter()))


def _join(recipe: Recipe) -> Ranks:
    on_cpu = choose_device(recipe.model).type == "cpu"
    ranks = Ranks.join(on_cpu)
    ranks.on_main(lambda: require_services(recipe.logging))
    ranks.on_main(lambda: require_vllm_server(trl_section(recipe)))
    return ranks


def _build(recipe: Recipe, ranks: Ranks) -> _Built:
    materials = ranks.together(lambda: load_materials(recipe))
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count))
    # Free memory differs from process to process; the plan may not.
    rows = ranks.on_main(lambda: rows_that_fit(recipe, materials.longest_prompt, neighbours))
    plan = batch_plan(
        recipe.grpo.prompts_per_step, recipe.generation.num_generations, ranks.count, rows
    )
    arguments = GRPOConfig(
        **config_arguments(
            recipe,
            plan,
            folder=Path(),  # known when there is a run directory
            bf16=uses_bfloat16(recipe),
            on_cpu=choose_device(recipe.model).type == "cpu",
            longest_prompt=materials.longest_prompt,
        )
    )
    # One process is one device, as natively, whatever else it sees.
    arguments._n_gpu = min(1, arguments.n_gpu)
    if asked_for_fsdp():
        ranks.introduce_fsdp()
    if arguments.deepspeed_plugin is not None:
        check_deepspeed(arguments.deepspeed_plugin.deepspeed_config, "the DeepSpeed configuration")
        ranks.introduce_deepspeed()
    policy = ranks.together(lambda: load_policy(recipe, arguments))
    # Of a mixture of experts some may have nothing to do in a step.
    arguments.ddp_find_unused_parameters = policy.has_experts
    return _Built(ranks, materials, plan, arguments, policy)


def _run(built: _Built, run: RunDirectory, origin: _From, stop: StopRequest) -> RunDirectory:
    recipe, ranks = built.materials.recipe, built.ranks
    # On the main process alone there is someone to report to.
    reporter = ranks.together(
        lambda: StepReporter(
            recipe,
            run,
            observers_of(recipe, run, Console(), origin.step) if ranks.is_main else (),
        )
    )
    for note in (f"run directory: {run.path}{origin.how}", *origin.notes, f"TRL: {built.plan}"):
        reporter.note(note)
    started = time.monotonic()
    with watched(run, reporter, stop), ranks.apart():
        _train(built, run, origin, reporter, stop)
    minutes = (time.monotonic() - started) / 60
    ranks.on_main(lambda: finish(run, reporter, minutes))
    return run


def _train(
    built: _Built,
    run: RunDirectory,
    origin: _From,
    reporter: StepReporter,
    stop: StopRequest,
) -> None:
    materials, ranks = built.materials, built.ranks
    recipe = materials.recipe
    if built.arguments.deepspeed_plugin is not None and ranks.count > 1:
        require_shared(run.path, ranks)
    keeper = Keeper(run, recipe.train.save_total_limit, recipe.grpo.num_iterations)
    ranks.on_main(keeper.clear)
    built.arguments.output_dir = str(keeper.staging)
    trainer = RecipeTrainer(materials, built.arguments, built.policy, ranks, keeper)
    for note in materials.notes:
        reporter.note(note)
    measured = partial(measure, materials, trainer, ranks, keeper.staging / "weights")
    evaluator = RunEvaluator(recipe, run, reporter.note, measured)
    conductor = Conductor(trainer, evaluator, reporter, stop)
    trainer.add_callback(conductor)
    if ranks.on_main(lambda: "before" not in run.evaluation()):
        evaluator.at_end("before")
    trainer.train(resume_from_checkpoint=str(origin.checkpoint) if origin.checkpoint else None)
    if conductor.stopped is None:
        evaluator.at_end("after")
    if ranks.is_main:
        keeper.clear()
    if conductor.stopped is not None:
        raise conductor.stopped
