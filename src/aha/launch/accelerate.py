"""`aha launch accelerate`: train a recipe on TRL in several processes that accelerate starts.

The files it writes can be edited and used by hand: `launch.sh` has the command. A signal to this
process goes to every training process. They save and end, and their exit code is returned.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml

from aha.launch import Strategy
from aha.launch.processes import run_agent, serving
from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory, usable_cores, writable
from aha.sections import TrlSection
from aha.types import UserError


@dataclass(frozen=True)
class Layout:
    """The processes that train, and the GPUs that generate for them.

    `processes` is the total, the same number on every node; `head` is the address of node 0. With
    a vLLM server, `vllm_gpus` more GPUs of node 0 generate and train nothing.
    """

    processes: int
    strategy: Strategy = "ddp"
    nodes: int = 1
    node_rank: int = 0
    head: str = "127.0.0.1"
    port: int = 29500
    vllm: Literal["off", "colocate", "server"] = "off"
    vllm_gpus: int = 1
    on_cpu: bool = False

    @property
    def processes_here(self) -> int:
        return self.processes // self.nodes

    @property
    def serves_here(self) -> bool:
        """True if this node runs the vLLM server."""
        return self.vllm == "server" and self.node_rank == 0

    @property
    def gpus_here(self) -> int:
        """The number of GPUs that this node needs."""
        if self.on_cpu:
            return 0
        return self.processes_here + (self.vllm_gpus if self.serves_here else 0)


@dataclass(frozen=True)
class AccelerateRequest:
    """The options of `aha launch accelerate`; `target` is a recipe or, with `resume`, a run.

    `folder` is for the files, with a subfolder for each of several nodes; None means
    launch/NAME-STRATEGY. Errors: UserError for `output` with `resume`, and `allow_change` without.
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

    def all_overrides(self) -> list[str]:
        """The layout's overrides, then the user's. A resumed run keeps its engine."""
        added = [] if self.resume else ["engine=trl"]
        if self.layout.vllm != "off":
            added.append(f"trl.vllm={self.layout.vllm}")
        # Without a GPU `auto` is the CPU, and a run begun with `auto` need not change.
        if self.layout.on_cpu and (not self.resume or visible_gpus()):
            added.append("model.device=cpu")
        return [*added, *self.overrides]


def launch(request: AccelerateRequest, say: Callable[[str], None]) -> int:
    """Write the files, start the processes and wait; the run's exit code.

    Errors: UserError before anything is written or started.
    """
    layout = request.layout
    recipe = _recipe(request)
    say(f"{_check(recipe, request)}; {layout.strategy}")
    folder, command = _write_files(request, recipe, say)
    say(shlex.join(command))
    if request.dry_run:
        return 0
    with ExitStack() as stack:
        if layout.serves_here:
            from aha.model.load import find_model

            _, gpus = split_gpus(layout)
            server = server_command(recipe, find_model(recipe.model.name), len(gpus))
            log = folder / "vllm.log"
            stack.enter_context(serving(server, gpus, health_address(recipe), log, say))
        if layout.nodes > 1:
            meeting = f"{layout.head}:{layout.port}"
            say(f"waiting for {layout.nodes - 1} more nodes to meet at {meeting}")
        environment = {**os.environ, **environment_of(layout)}
        return run_agent(command, environment, folder / f".exit-{os.getpid()}")


def _recipe(request: AccelerateRequest) -> Recipe:
    """The recipe as the processes will run it, without a DeepSpeed file that is still to write.

    Errors: UserError for changes that a resumed run refuses, or an output folder with a run in it.
    """
    overrides = request.all_overrides()
    if not request.resume:
        # On other nodes the run may be there already: the head has begun it.
        if request.output is not None and request.layout.node_rank == 0:
            RunDirectory.require_new(request.output)
        return load_recipe(request.target, overrides)
    run = RunDirectory.open(Path(request.target))
    recipe, _ = run.resumed_recipe(overrides, request.allow_change)
    # A run goes on with the DeepSpeed file it began with. If that file is gone, it was on another
    # machine, and a new one is written, unless the user names one now.
    named = any(o.partition("=")[0].strip() in ("trl", "trl.deepspeed") for o in request.overrides)
    if recipe.trl is None or recipe.trl.deepspeed is None or named:
        return recipe
    if Path(os.path.expanduser(recipe.trl.deepspeed)).exists():
        return recipe
    return recipe.model_copy(update={"trl": recipe.trl.model_copy(update={"deepspeed": None})})


def _check(recipe: Recipe, request: AccelerateRequest) -> str:
    """The batch plan in words. Errors: UserError for what is impossible."""
    from aha.trl.config import check, read_deepspeed, require_trl

    layout = request.layout
    if recipe.engine != "trl":
        whose = f"the run {request.target!r} has" if request.resume else "the recipe is to have"
        raise UserError(
            f"{whose} engine {recipe.engine!r}, which is one process; aha train runs it, and here "
            "allowed is trl."
        )
    require_trl()
    if layout.strategy.startswith("zero") and find_spec("deepspeed") is None:
        raise UserError(
            f"--strategy {layout.strategy} needs DeepSpeed: pip install 'aha-zero[trl,deepspeed]'."
        )
    check_layout(layout, visible_gpus())
    check_together(layout.strategy, recipe)
    if recipe.trl is not None and recipe.trl.deepspeed is not None:
        path = recipe.trl.deepspeed
        stage = (read_deepspeed(path).get("zero_optimization") or {}).get("stage")
        if f"zero{stage}" != layout.strategy:
            raise UserError(
                f"trl.deepspeed {path!r} has stage {stage} and --strategy is {layout.strategy}; "
                "they must agree."
            )
    return f"{check(recipe, layout.processes)}, where memory allows"


def check_together(strategy: Strategy, recipe: Recipe) -> None:
    """Errors: UserError for a recipe's `trl` section that does not go with the strategy."""
    section = recipe.trl or TrlSection()
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


def check_layout(layout: Layout, gpus: int) -> None:
    """Refuse an impossible layout before anything loads; `gpus` is the count this node sees.

    Errors: UserError naming the option and what is allowed.
    """
    if layout.processes % layout.nodes:
        raise UserError(
            f"--processes is {layout.processes} in all; on {layout.nodes} nodes it must be a "
            f"multiple of {layout.nodes}."
        )
    if not 0 <= layout.node_rank < layout.nodes:
        allowed = (
            "it is for --nodes" if layout.nodes == 1 else f"allowed are 0 to {layout.nodes - 1}"
        )
        raise UserError(f"--node-rank is {layout.node_rank} of {layout.nodes} nodes; {allowed}.")
    if layout.vllm != "off" and layout.on_cpu:
        raise UserError(f"--vllm is {layout.vllm!r}; without a GPU allowed is off.")
    if layout.gpus_here > gpus:
        server = f" and {layout.vllm_gpus} for vLLM" if layout.serves_here else ""
        raise UserError(
            f"--processes {layout.processes} needs {layout.processes_here} GPUs{server} on this "
            f"node, which sees {gpus}; lower it, use more --nodes, or --cpu."
        )


def _write_files(
    request: AccelerateRequest, recipe: Recipe, say: Callable[[str], None]
) -> tuple[Path, list[str]]:
    """Write accelerate.yaml, deepspeed.json under ZeRO, and launch.sh that starts them.

    Returns the folder and the command. Errors: UserError when the folder cannot be written.
    """
    layout, target = request.layout, Path(request.target)
    name = target.name if request.resume else target.stem
    folder = request.folder or Path("launch") / f"{name}-{layout.strategy}"
    if layout.nodes > 1:
        # Nodes may share a file system, and their files differ.
        folder /= f"node-{layout.node_rank}"
    texts = {"accelerate.yaml": str(yaml.safe_dump(accelerate_config(layout), sort_keys=False))}
    train = ["--resume", request.target] if request.resume else [request.target]
    if request.output is not None:
        train += ["--output", str(request.output)]
    if request.allow_change:
        train.append("--allow-change")
    overrides = request.all_overrides()
    has_own = recipe.trl is not None and recipe.trl.deepspeed is not None
    deepspeed = None if has_own else deepspeed_config(layout)
    if deepspeed is not None:
        texts["deepspeed.json"] = json.dumps(deepspeed, indent=2) + "\n"
        overrides.append(f"trl.deepspeed={(folder / 'deepspeed.json').resolve()}")
    for override in overrides:
        train += ["--set", override]
    config = str((folder / "accelerate.yaml").resolve())
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config,
               "-m", "aha.cli.main", "train", *train]  # fmt: skip
    exports = [f"export {k}={shlex.quote(v)}\n" for k, v in environment_of(layout).items()]
    texts["launch.sh"] = f"#!/bin/sh\n{''.join(exports)}exec {shlex.join(command)}\n"
    with writable(folder, "--folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
            say(f"wrote {folder / file}")
        (folder / "launch.sh").chmod(0o755)
    return folder, command


def accelerate_config(layout: Layout) -> dict[str, Any]:
    """The file that `accelerate launch --config_file` reads.

    Under ZeRO it does not name DeepSpeed: the recipe's `trl.deepspeed` does. Named here,
    accelerate would take every stage for 2, and TRL would not gather what stage 3 shards.
    """
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        # On CPUs too: accelerate starts several processes on one machine only for this type.
        "distributed_type": "MULTI_GPU",
        "use_cpu": layout.on_cpu,
        # The recipe sets the dtype of products; accelerate must not add another.
        "mixed_precision": "no",
        "num_processes": layout.processes,
        "num_machines": layout.nodes,
        "machine_rank": layout.node_rank,
        "main_process_ip": layout.head,
        "main_process_port": layout.port,
        "same_network": True,
        "rdzv_backend": "static",
    }
    if layout.strategy == "fsdp2":
        config["distributed_type"] = "FSDP"
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
        }
    return config


def deepspeed_config(layout: Layout) -> dict[str, Any] | None:
    """DeepSpeed's own file for ZeRO, None for other strategies; transformers fills in `auto`.

    Stage 2 shards gradients and optimizer, stage 3 the weights too (Rajbhandari et al. 2020,
    arXiv:1910.02054).
    """
    if layout.strategy not in ("zero2", "zero3"):
        return None
    zero: dict[str, Any] = {"stage": 2, "overlap_comm": False, "contiguous_gradients": True}
    if layout.strategy == "zero3":
        zero["stage"] = 3
        # A checkpoint must hold whole weights, or it loads nowhere else.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        # The optimizer is PyTorch's, as in a run on one device.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000,
    }


def environment_of(layout: Layout) -> dict[str, str]:
    """The environment variables that the training processes need."""
    # torch's launcher kills its processes this long after its own SIGTERM; they save first.
    found = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
    if layout.on_cpu:
        found["DS_ACCELERATOR"] = "cpu"
        cores = usable_cores() // layout.processes_here
        found["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores)))
    elif layout.serves_here:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(split_gpus(layout)[0])
    return found


def split_gpus(layout: Layout) -> tuple[list[str], list[str]]:
    """The GPUs that train, and those of the vLLM server after them, as CUDA_VISIBLE_DEVICES
    names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in given.split(",") if name]
    names = names or [str(number) for number in range(layout.gpus_here)]
    return names[: layout.processes_here], names[layout.processes_here : layout.gpus_here]


def visible_gpus() -> int:
    """The number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count()


def server_command(recipe: Recipe, model: str, gpus: int) -> list[str]:
    """The command of TRL's vLLM server; `model` is a folder or a name of the hub."""
    from aha.trl.config import vllm_server_dtype

    section = recipe.trl or TrlSection()
    return [
        sys.executable, "-m", "trl.cli.main", "vllm-serve",
        "--model", model,
        "--host", section.vllm_server_host,
        "--port", str(section.vllm_server_port),
        "--tensor_parallel_size", str(gpus),
        "--dtype", vllm_server_dtype(recipe),
    ]  # fmt: skip


def health_address(recipe: Recipe) -> str:
    """The address that answers once the server is up."""
    section = recipe.trl or TrlSection()
    return f"http://{section.vllm_server_host}:{section.vllm_server_port}/health"
