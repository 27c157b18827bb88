"""`aha launch accelerate`: a recipe on TRL, over processes that accelerate starts.

The files it writes can be edited and used by hand: `launch.sh` has the command. A signal to this
process goes to every training process, which saves and ends, and comes back as its exit code.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

from aha.launch.agent import run_agent
from aha.launch.layout import (
    Layout,
    accelerate_config,
    check_layout,
    check_together,
    deepspeed_config,
    visible_gpus,
)
from aha.launch.processes import stopped_by_signals
from aha.launch.vllm_server import health_address, server_command, serving
from aha.recipe import Recipe, changes, load_recipe, refuse_changes
from aha.runs import RunDirectory, usable_cores
from aha.types import UserError


@dataclass(frozen=True)
class Request:
    """What was asked: `target` is a recipe to begin with or, with `resume`, a run to go on with.

    Errors: UserError for options of the other of the two.

    `folder` is for the files, with one in it for each of several nodes; none: launch/NAME-STRATEGY.
    """

    target: str
    layout: Layout
    overrides: Sequence[str] = ()
    output: Path | None = None
    resume: bool = False
    folder: Path | None = None
    dry_run: bool = False
    allow_change: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.output is not None:
            raise UserError("--output is for a new run; --resume goes on in the run's own folder.")
        if self.allow_change and not self.resume:
            raise UserError("--allow-change goes with --resume.")


@dataclass(frozen=True)
class Files:
    """What was written, and the command it is for."""

    folder: Path
    names: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]


def launch(request: Request, say: Callable[[str], None]) -> int:
    """Write the files, start the processes and wait; the run's exit code.

    Errors: UserError before anything is written or started.
    """
    recipe = _recipe(request)
    plan = _check(recipe, request)
    files = write_files(request, recipe)
    say(f"{plan}; {request.layout.strategy}")
    for name in files.names:
        say(f"wrote {files.folder / name}")
    say(shlex.join(files.command))
    if request.dry_run:
        return 0
    with ExitStack() as stack:
        if request.layout.serves_here:
            stack.enter_context(stopped_by_signals())
            stack.enter_context(_server(recipe, request.layout, files.folder, say))
        if request.layout.nodes > 1:
            meeting = f"{request.layout.head}:{request.layout.port}"
            say(f"waiting for {request.layout.nodes - 1} more nodes to meet at {meeting}")
        exit_file = files.folder / f".exit-{os.getpid()}"
        return run_agent(files.command, {**os.environ, **files.environment}, exit_file)


def _server(
    recipe: Recipe, layout: Layout, folder: Path, say: Callable[[str], None]
) -> AbstractContextManager[None]:
    from aha.model.load import find_model

    gpus = server_gpus(layout)
    command = server_command(recipe, find_model(recipe.model.name), len(gpus))
    return serving(command, gpus, health_address(recipe), folder / "vllm.log", say)


def _recipe(request: Request) -> Recipe:
    """The recipe as its processes will run it, but for a DeepSpeed file that is to be written.

    Errors: UserError for a run that cannot go on so, or a folder that holds one already.
    """
    overrides = [*_added(request), *request.overrides]
    if not request.resume:
        # On other nodes the run may be there already: the head has begun it.
        if request.output is not None and request.layout.node_rank == 0:
            RunDirectory.require_new(request.output)
        return load_recipe(request.target, overrides)
    run = RunDirectory.open(Path(request.target))
    recipe = load_recipe(str(run.path / "recipe.yaml"), overrides)
    refuse_changes(changes(run.recipe(), recipe), request.allow_change)
    return _without_lost_file(recipe, request.overrides)


def _without_lost_file(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A run goes on with the DeepSpeed file that it was begun with, as that is now.

    One that is gone was on another machine, and is written anew; not one that is asked for now.
    """
    asked = any(o.partition("=")[0].strip() in ("trl", "trl.deepspeed") for o in overrides)
    if recipe.trl is None or recipe.trl.deepspeed is None or asked:
        return recipe
    if Path(os.path.expanduser(recipe.trl.deepspeed)).exists():
        return recipe
    return recipe.model_copy(update={"trl": recipe.trl.model_copy(update={"deepspeed": None})})


def _folder(request: Request) -> Path:
    """Where the files go; nodes may share a file system, and each one's files differ."""
    layout, target = request.layout, Path(request.target)
    name = target.name if request.resume else target.stem
    folder = request.folder or Path("launch") / f"{name}-{layout.strategy}"
    return folder / f"node-{layout.node_rank}" if layout.nodes > 1 else folder


def _added(request: Request) -> list[str]:
    """What the layout says about the recipe. A run keeps its engine."""
    layout, overrides = request.layout, list[str]()
    if not request.resume:
        overrides.append("engine=trl")
    if layout.vllm != "off":
        overrides.append(f"trl.vllm={layout.vllm}")
    # Without a GPU `auto` is the CPU, and a run that was begun so need not change.
    if layout.on_cpu and (not request.resume or visible_gpus()):
        overrides.append("model.device=cpu")
    return overrides


def _check(recipe: Recipe, request: Request) -> str:
    """What each process will do, in words. Errors: UserError for what cannot be."""
    from aha.trl.config import check, require_trl

    layout = request.layout
    if recipe.engine != "trl":
        whose = f"the run {request.target!r} has" if request.resume else "the recipe is to have"
        raise UserError(
            f"{whose} engine {recipe.engine!r}, which is one process; aha train runs it, and here "
            "allowed is trl."
        )
    require_trl()
    if layout.strategy.startswith("zero"):
        _require_deepspeed(layout.strategy)
    check_layout(layout, visible_gpus())
    check_together(layout.strategy, recipe)
    _check_stage(recipe, layout)
    return f"{check(recipe, layout.processes)}, where memory allows"


def _check_stage(recipe: Recipe, layout: Layout) -> None:
    """Errors: UserError for a DeepSpeed file that is not of the strategy."""
    from aha.trl.config import read_deepspeed, trl_section

    path = trl_section(recipe).deepspeed
    if path is None:
        return
    stage = (read_deepspeed(path).get("zero_optimization") or {}).get("stage")
    if f"zero{stage}" != layout.strategy:
        raise UserError(
            f"trl.deepspeed {path!r} has stage {stage} and --strategy is {layout.strategy}; they "
            "must agree."
        )


def _require_deepspeed(strategy: str) -> None:
    if find_spec("deepspeed") is None:
        raise UserError(
            f"--strategy {strategy} needs DeepSpeed: pip install 'aha-zero[trl,deepspeed]'."
        )


def write_files(request: Request, recipe: Recipe) -> Files:
    """accelerate.yaml, deepspeed.json under ZeRO, and launch.sh that starts them.

    Errors: UserError when the folder cannot be written.
    """
    layout = request.layout
    folder = _folder(request)
    texts = {"accelerate.yaml": str(yaml.safe_dump(accelerate_config(layout), sort_keys=False))}
    has_own = recipe.trl is not None and recipe.trl.deepspeed is not None
    deepspeed = None if has_own else deepspeed_config(layout)
    if deepspeed is not None:
        texts["deepspeed.json"] = json.dumps(deepspeed, indent=2) + "\n"
    command = _command(request, folder, with_deepspeed=deepspeed is not None)
    environment = environment_of(layout)
    script = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment.items())
    texts["launch.sh"] = f"#!/bin/sh\n{script}exec {shlex.join(command)}\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "launch.sh").chmod(0o755)
    except OSError as error:
        raise UserError(f"--folder: {str(folder)!r} cannot be written: {error}.") from None
    return Files(folder, tuple(texts), tuple(command), environment)


def _command(request: Request, folder: Path, with_deepspeed: bool) -> list[str]:
    train = ["--resume", request.target] if request.resume else [request.target]
    if request.output is not None:
        train += ["--output", str(request.output)]
    if request.allow_change:
        train.append("--allow-change")
    overrides = [*_added(request), *request.overrides]
    if with_deepspeed:
        overrides.append(f"trl.deepspeed={(folder / 'deepspeed.json').resolve()}")
    for override in overrides:
        train += ["--set", override]
    config = str((folder / "accelerate.yaml").resolve())
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config,
            "-m", "aha.cli.main", "train", *train]  # fmt: skip


def server_gpus(layout: Layout) -> list[str]:
    """The GPUs of the vLLM server: those after the trainers'."""
    return _gpu_names(layout.gpus_here)[layout.processes_here :]


def environment_of(layout: Layout) -> dict[str, str]:
    """What the processes need to know beside the files."""
    # torch's launcher ends its processes so long after a SIGTERM of its own; they save first.
    found = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
    if layout.on_cpu:
        found["DS_ACCELERATOR"] = "cpu"
        cores = usable_cores() // layout.processes_here
        found["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores)))
    elif layout.serves_here:
        gpus = _gpu_names(layout.gpus_here)
        found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[: layout.processes_here])
    return found


def _gpu_names(count: int) -> list[str]:
    """The first GPUs that this process may use, by their names for CUDA."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in given.split(",") if name] or [str(i) for i in range(count)]
    return names[:count]
