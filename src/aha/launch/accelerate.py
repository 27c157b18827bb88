"""`aha launch accelerate`: train a recipe on TRL in several processes that accelerate starts.

The files it writes can be edited and used by hand: `launch.sh` has the command. A signal to this
process goes to every training process. They save and end, and their exit code is returned.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from aha.launch import AccelerateRequest, Strategy, visible_gpus
from aha.launch.processes import run_agent, serving
from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory, usable_cores, writable
from aha.trl.config import check, read_deepspeed, require_trl, trl_section
from aha.types import UserError
from aha.visible import text_template


def launch(request: AccelerateRequest, say: Callable[[str], None]) -> int:
    """Write the files, start the processes and wait; the run's exit code.

    Errors: UserError before anything is written or started.
    """
    # The layout's overrides, then the user's. A resumed run keeps its engine.
    overrides = [] if request.resume else ["engine=trl"]
    if request.vllm != "off":
        overrides.append(f"trl.vllm={request.vllm}")
    # Without a GPU `auto` is the CPU, and a run begun with `auto` need not change.
    if request.on_cpu and (not request.resume or visible_gpus()):
        overrides.append("model.device=cpu")
    overrides += request.overrides or ()
    recipe = _recipe(request, overrides)
    say(f"{_check(recipe, request)}; {request.strategy}")
    folder, command = _write_files(request, recipe, overrides, say)
    say(shlex.join(command))
    if request.dry_run:
        return 0
    with ExitStack() as stack:
        if request.serves_here:
            from aha.model.load import find_model

            _, gpus = split_gpus(request)
            server = server_command(recipe, find_model(recipe.model.name), len(gpus))
            log = folder / "vllm.log"
            stack.enter_context(serving(server, gpus, health_address(recipe), log, say))
        if request.nodes > 1:
            meeting = f"{request.head}:{request.head_port}"
            say(f"waiting for {request.nodes - 1} more nodes to meet at {meeting}")
        environment = {**os.environ, **environment_of(request)}
        return run_agent(command, environment, folder / f".exit-{os.getpid()}")


def _recipe(request: AccelerateRequest, overrides: list[str]) -> Recipe:
    """The recipe as the processes will run it, without a DeepSpeed file that is still to write.

    Errors: UserError for changes that a resumed run refuses, or an output folder with a run in it.
    """
    if not request.resume:
        # On other nodes the run may be there already: the head has begun it.
        if request.output is not None and request.node_rank == 0:
            RunDirectory.require_new(request.output)
        return load_recipe(request.target, overrides)
    run = RunDirectory.open(Path(request.target))
    recipe, _ = run.resumed_recipe(overrides, request.allow_change)
    # A run goes on with the DeepSpeed file it began with. If that file is gone, it was on another
    # machine, and a new one is written, unless the user names one now.
    named = any(one.partition("=")[0].strip() in ("trl", "trl.deepspeed") for one in overrides)
    if recipe.trl is None or recipe.trl.deepspeed is None or named:
        return recipe
    if Path(os.path.expanduser(recipe.trl.deepspeed)).exists():
        return recipe
    return recipe.model_copy(update={"trl": recipe.trl.model_copy(update={"deepspeed": None})})


def _check(recipe: Recipe, request: AccelerateRequest) -> str:
    """The batch plan in words. Errors: UserError for what is impossible."""
    strategy = request.strategy
    if recipe.engine != "trl":
        whose = f"the run {request.target!r} has" if request.resume else "the recipe is to have"
        raise UserError(
            f"{whose} engine {recipe.engine!r}, which is one process; aha train runs it, and here "
            "allowed is trl."
        )
    require_trl()
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        raise UserError(
            f"--strategy {strategy} needs DeepSpeed: pip install 'aha-zero[trl,deepspeed]'."
        )
    check_layout(request)
    check_together(strategy, recipe)
    if (path := trl_section(recipe).deepspeed) is not None:
        stage = (read_deepspeed(path).get("zero_optimization") or {}).get("stage")
        if f"zero{stage}" != strategy:
            raise UserError(
                f"trl.deepspeed {path!r} has stage {stage} and --strategy is {strategy}; "
                "they must agree."
            )
    return f"{check(recipe, request.processes)}, where memory allows"


def check_together(strategy: Strategy, recipe: Recipe) -> None:
    """Errors: UserError for a recipe's `trl` section that does not go with the strategy."""
    section = trl_section(recipe)
    if section.vllm == "colocate" and strategy == "fsdp2":
        raise UserError(
            "trl.vllm is 'colocate' with --strategy fsdp2; allowed are off and server: sharded "
            "weights would have to be gathered on every GPU beside vLLM's own copy."
        )
    if section.deepspeed is not None and not strategy.startswith("zero"):
        raise UserError(
            f"trl.deepspeed is {section.deepspeed!r} and --strategy is {strategy}; with a "
            "DeepSpeed file allowed are zero2 and zero3."
        )


def check_layout(request: AccelerateRequest) -> None:
    """Errors: UserError for a layout that is impossible, or needs GPUs that this node lacks."""
    nodes, gpus = request.nodes, visible_gpus()
    if request.processes % nodes:
        raise UserError(
            f"--processes is {request.processes} in all; on {nodes} nodes it must be a multiple "
            f"of {nodes}."
        )
    if not 0 <= request.node_rank < nodes:
        allowed = "it is for --nodes" if nodes == 1 else f"allowed are 0 to {nodes - 1}"
        raise UserError(f"--node-rank is {request.node_rank} of {nodes} nodes; {allowed}.")
    if request.vllm != "off" and request.on_cpu:
        raise UserError(f"--vllm is {request.vllm!r}; without a GPU allowed is off.")
    if request.gpus_here > gpus:
        server = f" and {request.vllm_gpus} for vLLM" if request.serves_here else ""
        raise UserError(
            f"--processes {request.processes} needs {request.processes_here} GPUs{server} on this "
            f"node, which sees {gpus}; lower it, use more --nodes, or --cpu."
        )


def _write_files(
    request: AccelerateRequest, recipe: Recipe, overrides: list[str], say: Callable[[str], None]
) -> tuple[Path, list[str]]:
    """Write the configuration, and launch.sh that starts it; returns the folder and the command."""
    target = Path(request.target)
    name = target.name if request.resume else target.stem
    folder = request.folder or Path("launch") / f"{name}-{request.strategy}"
    if request.nodes > 1:
        # Nodes may share a file system, and their files differ.
        folder /= f"node-{request.node_rank}"
    files = ["accelerate.yaml", "launch.sh"]
    if request.strategy.startswith("zero") and trl_section(recipe).deepspeed is None:
        files.insert(1, "deepspeed.json")
        overrides = [*overrides, f"trl.deepspeed={(folder / 'deepspeed.json').resolve()}"]
    train = ["--resume", request.target] if request.resume else [request.target]
    if request.output is not None:
        train += ["--output", str(request.output)]
    if request.allow_change:
        train.append("--allow-change")
    for override in overrides:
        train += ["--set", override]
    config = str((folder / "accelerate.yaml").resolve())
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config,
               "-m", "aha.cli.main", "train", *train]  # fmt: skip
    environment = environment_of(request)
    with writable(folder, "--folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            text = text_template(
                "aha.launch", f"{file}.j2", sh=shlex.quote, sh_join=shlex.join
            ).render(request=request, environment=environment, command=command)
            (folder / file).write_text(text, encoding="utf-8")
            say(f"wrote {folder / file}")
        (folder / "launch.sh").chmod(0o755)
    return folder, command


def environment_of(request: AccelerateRequest) -> dict[str, str]:
    """The environment variables that the training processes need."""
    # torch's launcher kills its processes this long after its own SIGTERM; they save first.
    found = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
    if request.on_cpu:
        found["DS_ACCELERATOR"] = "cpu"
        cores = usable_cores() // request.processes_here
        found["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores)))
    elif request.serves_here:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(split_gpus(request)[0])
    return found


def split_gpus(request: AccelerateRequest) -> tuple[list[str], list[str]]:
    """The GPUs that train, and those of the vLLM server after them, as CUDA_VISIBLE_DEVICES
    names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in given.split(",") if name]
    names = names or [str(number) for number in range(request.gpus_here)]
    return names[: request.processes_here], names[request.processes_here : request.gpus_here]


def server_command(recipe: Recipe, model: str, gpus: int) -> list[str]:
    """The command of TRL's vLLM server; `model` is a folder or a name of the hub."""
    section = trl_section(recipe)
    return [
        sys.executable, "-m", "trl.cli.main", "vllm-serve",
        "--model", model,
        "--host", section.vllm_server_host,
        "--port", str(section.vllm_server_port),
        "--tensor_parallel_size", str(gpus),
        "--dtype", vllm_server_dtype(recipe),
    ]  # fmt: skip


def vllm_server_dtype(recipe: Recipe) -> str:
    """The recipe's own type; else `auto`, half precision there, as the policy's products are."""
    model = recipe.model
    if "bfloat16" in (model.dtype, model.autocast):
        return "bfloat16"
    # Frozen weights without a type of their own are in half precision on a GPU.
    says = model.autocast == "none" and (model.dtype != "auto" or recipe.lora is None)
    return "float32" if says else "auto"


def health_address(recipe: Recipe) -> str:
    """The address that answers once the server is up."""
    section = trl_section(recipe)
    return f"http://{section.vllm_server_host}:{section.vllm_server_port}/health"
