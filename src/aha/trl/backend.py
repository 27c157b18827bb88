"""Starting and resuming a run on TRL: every process that a launcher starts runs this."""

from __future__ import annotations

import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import DistributedType, PartialState
from rich.console import Console
from transformers import TrainerCallback

from aha.evaluate.evaluation import Evaluation, RunEvaluator, evaluate_held_out
from aha.model.llama import blocks_of
from aha.model.load import choose_device, load_model, product_dtype
from aha.model.lora import folded
from aha.observe.reporter import StepReporter, observers_of, require_services
from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory
from aha.sections import TrlSection
from aha.train.checkpoint import newest_valid, read_state
from aha.train.start import finish, watched, where_from
from aha.train.state import TrainingData, build_engine
from aha.train.stop import StopRequest
from aha.trl.config import (
    BatchPlan,
    asked_for_fsdp,
    batch_plan,
    check,
    check_deepspeed,
    config_arguments,
    processes,
    sharding,
    trl_section,
)
from aha.trl.materials import Policy, load_data, load_policy, loading_whole, rows_that_fit
from aha.trl.ranks import Ranks, require_shared
from aha.trl.trainer import RecipeTrainer
from aha.types import Stopped, UserError
from trl import GRPOConfig

# The parts of a run before it has a folder: its data, plan, GRPOConfig and policy.
_Parts = tuple[TrainingData, BatchPlan, Any, Policy]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of transformers and TRL about their own future: users cannot act on them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|torch")
        yield


@_quiet()
def start_run(recipe: Recipe, output: Path | None) -> RunDirectory:
    """A new run, from first step to report, in every process. Errors: as natively, in all."""
    check(recipe, processes())
    stop = StopRequest(recipe.train.max_hours)
    ranks = _join(recipe)
    if output is not None:
        ranks.on_main(lambda: RunDirectory.require_new(output))
    # Model, rewards and data are loaded before a folder is made: most mistakes show there.
    parts = _build(recipe, ranks)
    with ranks.holding(lambda: RunDirectory.begun(recipe, output)) as run:
        return _run(parts, ranks, run, stop)


@_quiet()
def resume_run(
    path: Path, overrides: Sequence[str] = (), allow_change: bool = False
) -> RunDirectory:
    """Go on with a run from its newest whole checkpoint, or from the start when it has none.

    Another number of processes draws other completions. Errors: as natively, and UserError for a
    checkpoint that this launch could not read.
    """
    run = RunDirectory.open(path)
    recipe = load_recipe(str(path / "recipe.yaml"), overrides)
    check(recipe, processes())
    stop = StopRequest(recipe.train.max_hours)
    ranks = _join(recipe)
    # Files that a recipe names may be elsewhere on other nodes: the main process decides.
    _, changed = ranks.on_main(lambda: run.resumed_recipe(overrides, allow_change))
    with ranks.holding(run.locked):
        found = ranks.on_main(lambda: newest_valid(run))
        state = {} if found.path is None else read_state(found.path)
        if state and state.get("engine") != "trl":
            raise UserError(
                f"{found.path} was written by engine native; a run goes on under its own engine."
            )
        parts = _build(recipe, ranks)
        here = sharding(parts[2])
        if state.get("sharding", here) != here:
            raise UserError(
                f"--resume: the run's checkpoints were written with sharding "
                f"{state['sharding']!r}, and it is {here!r} now; launch it as before."
            )
        done = state.get("step", 0)
        lengths = state.get("record_bytes") or dict.fromkeys(run.record_bytes(), 0)
        lost = ranks.on_main(lambda: run.rewind(done, lengths))
        if changed:
            ranks.on_main(lambda: run.change_recipe(recipe, done))
        notes = [*found.faults, *(f"changed {change}" for change in changed)]
        return _run(parts, ranks, run, stop, found.path, done, where_from(done, lost), notes)


def _join(recipe: Recipe) -> Ranks:
    ranks = Ranks.join(on_cpu=choose_device(recipe.model).type == "cpu")
    ranks.on_main(lambda: require_services(recipe.logging))
    ranks.on_main(lambda: require_vllm_server(trl_section(recipe)))
    return ranks


def require_vllm_server(section: TrlSection, seconds: float = 240.0) -> None:
    """Wait for the vLLM server to listen. Errors: UserError when it does not in that time."""
    if section.vllm != "server":
        return
    address = (section.vllm_server_host, section.vllm_server_port)
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"trl.vllm is 'server', and at {address[0]}:{address[1]} nothing listened for "
                    f"{seconds:.0f} s ({error}); start it, or set trl.vllm_server_host and "
                    "trl.vllm_server_port."
                ) from None
        time.sleep(1)


def _build(recipe: Recipe, ranks: Ranks) -> _Parts:
    data = ranks.together(lambda: load_data(recipe))
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count))
    # Free memory differs from process to process; the plan may not.
    rows = ranks.on_main(lambda: rows_that_fit(recipe, data.longest_prompt, neighbours))
    plan = batch_plan(recipe, ranks.count, rows)
    arguments = GRPOConfig(
        **config_arguments(
            recipe,
            plan,
            # TRL's mixed precision: for products in bfloat16, or weights that are.
            bf16=product_dtype(recipe) == torch.bfloat16,
            on_cpu=choose_device(recipe.model).type == "cpu",
            longest_prompt=data.longest_prompt,
        )
    )
    # One process uses one device, as natively, however many it sees.
    arguments._n_gpu = min(1, arguments.n_gpu)
    if asked_for_fsdp() and PartialState().distributed_type == DistributedType.MULTI_CPU:
        # By itself accelerate shards only among GPUs.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    if arguments.deepspeed_plugin is not None:
        check_deepspeed(arguments.deepspeed_plugin.deepspeed_config, "the DeepSpeed configuration")
        if ranks.count > 1:
            # On a CPU accelerate does not connect DeepSpeed's processes: each would be alone.
            comm: Any = import_module("deepspeed.comm")
            if not comm.is_initialized():
                comm.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)
    return data, plan, arguments, ranks.together(lambda: load_policy(recipe, arguments))


def _run(
    parts: _Parts,
    ranks: Ranks,
    run: RunDirectory,
    stop: StopRequest,
    checkpoint: Path | None = None,
    done: int = 0,
    how: str = "",
    notes: Sequence[str] = (),
) -> RunDirectory:
    """Train from a checkpoint, or from the start; write the report."""
    data, plan, arguments, policy = parts
    recipe = data.recipe
    # Only the main process has observers.
    reporter = ranks.together(
        lambda: StepReporter(
            recipe, run, observers_of(recipe, run, Console(), done) if ranks.is_main else ()
        )
    )
    for note in (f"run directory: {run.path}{how}", *notes, f"TRL: {plan}", *data.notes):
        reporter.note(note)
    started = time.monotonic()
    with watched(run, reporter, stop), ranks.apart():
        if arguments.deepspeed_plugin is not None and ranks.count > 1:
            require_shared(run.path, ranks)
        staging = run.checkpoints / ".trl"
        # A killed process may have left a folder half written.
        ranks.on_main(lambda: shutil.rmtree(staging, ignore_errors=True))
        arguments.output_dir = str(staging)
        trainer = RecipeTrainer(data, arguments, policy, ranks, run)
        measured = partial(_measure, data, trainer, staging / "weights")
        evaluator = RunEvaluator(recipe, run, reporter.note, measured)
        between = BetweenSteps(trainer, evaluator, reporter, stop)
        trainer.add_callback(between)
        if ranks.on_main(lambda: "before" not in run.evaluation()):
            evaluator.at_end("before")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if between.stopped is None:
            evaluator.at_end("after")
        if ranks.is_main:
            shutil.rmtree(staging, ignore_errors=True)
        if between.stopped:
            raise between.stopped
    minutes = (time.monotonic() - started) / 60
    ranks.on_main(lambda: finish(run, reporter, minutes))
    return run


@dataclass(eq=False)
class BetweenSteps(TrainerCallback):  # type: ignore[misc]
    """Ends each step as the native loop does; `stopped` says why the run ended early, if so."""

    trainer: RecipeTrainer
    evaluator: RunEvaluator
    reporter: StepReporter
    stop: StopRequest
    slowest_s: float = 0.0
    stopped: Stopped | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        recipe = self.trainer.recipe
        number, rest = divmod(state.global_step, recipe.grpo.num_iterations)
        if rest:
            return control
        step = self.trainer.finish_step(number)
        evaluated = self.evaluator.after_step(number)
        self.trainer.ranks.on_main(lambda: self.reporter.report(step, evaluated))
        self.slowest_s = max(self.slowest_s, step.times["time/step_s"])
        last = number == recipe.train.max_steps
        # Twice the slowest step: the checkpoint must still be written.
        self.stopped = self._agree(0.0 if last else 2 * self.slowest_s)
        control.should_save = (
            last or self.stopped is not None or number % recipe.train.save_steps == 0
        )
        control.should_training_stop |= self.stopped is not None
        return control

    def _agree(self, next_step_s: float) -> Stopped | None:
        """The reason to stop, when any process has one."""
        mine = None
        try:
            self.stop.check(next_step_s)
        except Stopped as stopped:
            mine = (str(stopped), stopped.code)
        reasons = [reason for reason in self.trainer.ranks.gather(mine) if reason is not None]
        return Stopped(*reasons[0]) if reasons else None


def _measure(
    data: TrainingData,
    trainer: RecipeTrainer,
    folder: Path,
    keep: Callable[[Evaluation], None],
    untrained: bool,
) -> None:
    """Call `keep` with the policy's evaluation on the main process; the others wait.

    No process holds the whole of a sharded policy: all write it to `folder`, and the main one
    reads it. An untrained one is loaded as the recipe names it.
    """
    recipe, ranks = data.recipe, trainer.ranks

    def keep_answers() -> None:
        if trainer.is_sharded:
            with loading_whole(trainer.args):
                model = load_model(recipe.model, None if untrained else str(folder))
        else:
            model = trainer.policy
        with own_forward(model):
            plain = folded(model)
            engine = build_engine(recipe, plain, data.tokenizer, blocks_of(plain))
            samples = recipe.evaluation.samples
            keep(evaluate_held_out(recipe, engine, data.tokenizer, data.held_out, samples))

    if trainer.is_sharded and not untrained:
        ranks.together(lambda: trainer.save_model(str(folder)))
    ranks.on_main(keep_answers)
    if trainer.is_sharded and ranks.is_main:
        torch.cuda.empty_cache()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """While inside, the model has its class's methods: TRL and accelerate wrap the instance's."""
    theirs = {
        name: vars(model).pop(name) for name in ("forward", "generate") if name in vars(model)
    }
    try:
        yield
    finally:
        vars(model).update(theirs)
