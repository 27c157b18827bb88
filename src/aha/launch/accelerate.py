"""`aha launch accelerate`: a recipe on TRL, over processes that accelerate starts.

The files it writes can be edited and used by hand: `launch.sh` has the command. A signal to this
process goes to every training process, which saves and ends, and comes back as its exit code.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import yaml

from aha.launch.layout import (
    EXIT_CODE_FILE,
    Layout,
    accelerate_config,
    check_layout,
    deepspeed_config,
    visible_gpus,
)
from aha.launch.vllm_server import health_address, server_command, serving
from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory, usable_cores
from aha.types import RunFailure, UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(frozen=True)
class Request:
    """What was asked: `target` is a recipe to begin with or, with `resume`, a run to go on with.

    `folder` is for the files, with one in it for each of several nodes; none: launch/NAME-STRATEGY.
    """

    target: str
    layout: Layout
    overrides: Sequence[str] = ()
    output: Path | None = None
    resume: bool = False
    folder: Path | None = None
    dry_run: bool = False


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
    files = write_files(request)
    say(f"{plan}; {request.layout.strategy}")
    for name in files.names:
        say(f"wrote {files.folder / name}")
    say(shlex.join(files.command))
    if request.dry_run:
        return 0
    with ExitStack() as stack:
        if request.layout.serves_here:
            stack.enter_context(_server(recipe, request.layout, files.folder, say))
        return _start(files, request.layout)


def _server(
    recipe: Recipe, layout: Layout, folder: Path, say: Callable[[str], None]
) -> AbstractContextManager[None]:
    from aha.train.policy import find_model

    gpus = server_gpus(layout)
    command = server_command(recipe, find_model(recipe.model.name), len(gpus))
    return serving(command, gpus, health_address(recipe), folder / "vllm.log", say)


def _recipe(request: Request) -> Recipe:
    """The recipe as its processes will run it."""
    if request.resume:
        path = RunDirectory.open(Path(request.target)).path
        return load_recipe(str(path / "recipe.yaml"), request.overrides)
    return load_recipe(request.target, [*_added(request.layout), *request.overrides])


def _folder(request: Request) -> Path:
    """Where the files go; nodes may share a file system, and each one's files differ."""
    layout, target = request.layout, Path(request.target)
    name = target.name if request.resume else target.stem
    folder = request.folder or Path("launch") / f"{name}-{layout.strategy}"
    return folder / f"node-{layout.node_rank}" if layout.nodes > 1 else folder


def _added(layout: Layout) -> list[str]:
    """What the layout says about the recipe."""
    overrides = ["engine=trl"]
    if layout.vllm != "off":
        overrides.append(f"trl.vllm={layout.vllm}")
    if layout.on_cpu:
        overrides.append("model.device=cpu")
    return overrides


def _check(recipe: Recipe, request: Request) -> str:
    """What each process will do, in words. Errors: UserError for what cannot be."""
    from aha.backends.trl.config import check, require_trl

    if recipe.engine != "trl":
        raise UserError(
            f"{request.target!r} is a run of engine {recipe.engine!r}, which is one process; "
            "resume it with aha train --resume."
        )
    require_trl()
    if request.layout.strategy.startswith("zero"):
        _require_deepspeed(request.layout.strategy)
    check_layout(request.layout, visible_gpus())
    return str(check(recipe, request.layout.processes))


def _require_deepspeed(strategy: str) -> None:
    if find_spec("deepspeed") is None:
        raise UserError(
            f"--strategy {strategy} needs DeepSpeed: pip install 'aha-zero[trl,deepspeed]'."
        )


def write_files(request: Request) -> Files:
    """accelerate.yaml, deepspeed.json under ZeRO, and launch.sh that starts them.

    Errors: UserError when the folder cannot be written.
    """
    layout = request.layout
    folder = _folder(request)
    deepspeed = deepspeed_config(layout)
    command = _command(request, folder)
    environment = environment_of(layout)
    script = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment.items())
    config = yaml.safe_dump(accelerate_config(layout), sort_keys=False)
    texts = {"accelerate.yaml": str(config)}
    if deepspeed is not None:
        texts["deepspeed.json"] = json.dumps(deepspeed, indent=2) + "\n"
    texts["launch.sh"] = f"#!/bin/sh\n{script}exec {shlex.join(command)}\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--folder: {str(folder)!r} cannot be written: {error}.") from None
    return Files(folder, tuple(texts), tuple(command), environment)


def _command(request: Request, folder: Path) -> list[str]:
    if request.resume:
        train = ["--resume", request.target]
        overrides = list(request.overrides)
    else:
        train = [request.target]
        overrides = _added(request.layout) + list(request.overrides)
    if request.output is not None:
        train += ["--output", str(request.output)]
    if request.layout.strategy.startswith("zero"):
        overrides.append(f"trl.deepspeed={(folder / 'deepspeed.json').resolve()}")
    for override in overrides:
        train += ["--set", override]
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*launcher, "--config_file", str(folder / "accelerate.yaml"), "-m", "aha.cli", "train",
            *train]  # fmt: skip


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


def _start(files: Files, layout: Layout) -> int:
    exit_file = files.folder / f".exit-{layout.node_rank}-{os.getpid()}"
    environment = {**os.environ, **files.environment, EXIT_CODE_FILE: str(exit_file.resolve())}
    # A session of its own: signals to this process's group reach the ranks through us, once.
    agent = subprocess.Popen(  # noqa: S603
        files.command, env=environment, start_new_session=True
    )
    try:
        with _forwarding(agent.pid):
            code = agent.wait()
        if exit_file.exists():
            return int(exit_file.read_text(encoding="utf-8"))
    finally:
        exit_file.unlink(missing_ok=True)
        _end(agent)
    if code:
        raise RunFailure(f"a training process failed (exit code {code}); see its messages above.")
    return 0


@contextmanager
def _forwarding(agent: int) -> Iterator[None]:
    """Signals to this process go to the training processes, while inside."""

    def forward(number: int, frame: FrameType | None) -> None:
        for rank in ranks_of(agent):
            rank.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ranks_of(agent: int) -> list[psutil.Process]:
    """The training processes under accelerate's, not their own children."""
    found = []
    for process in psutil.Process(agent).children():
        try:
            if "LOCAL_RANK" in process.environ():
                found.append(process)
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return found


def _end(agent: subprocess.Popen[Any]) -> None:
    """Leave nothing running behind, however this ends."""
    if agent.poll() is None:
        agent.terminate()
        try:
            agent.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(agent.pid, signal.SIGKILL)
