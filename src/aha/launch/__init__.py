"""Runs over several processes and machines: sweeps, accelerate, SLURM, Amazon SageMaker.

Each launcher's options stand here once, with their types, defaults and help: the command line
reads them before it loads a launcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from aha.options import (
    AllowChangeOption,
    RecipeArgument,
    ResumeOption,
    SetOption,
    option,
    recipe_argument,
)
from aha.types import UserError

# An environment variable with the path of a file. A rank writes its exit code there and ends with
# 0, because accelerate prints a traceback for any other end.
EXIT_CODE_FILE = "AHA_EXIT_CODE_FILE"

Strategy = Literal["ddp", "zero2", "zero3", "fsdp2"]
_StrategyOption = Annotated[
    Strategy,
    Option(help="ddp: a copy each; the others share gradients, optimizer, weights."),
]


@dataclass(frozen=True)
class AccelerateRequest:
    """`aha launch accelerate`. Errors: UserError for options that exclude each other."""

    recipe: Annotated[str | None, recipe_argument("; or --resume.")] = None
    processes: int = option(1, help="Processes that train, in all: one a GPU.", min=1)
    strategy: _StrategyOption = "ddp"
    overrides: SetOption = None
    output: Path | None = option(None, help="Run directory; on several nodes, one that all see.")
    resume: ResumeOption = None
    allow_change: AllowChangeOption = False
    nodes: int = option(1, help="Machines; run this on each of them.", min=1)
    node_rank: int = option(0, help="The number of this machine: 0 is the head.")
    head: str = option("127.0.0.1", help="The head's address.")
    port: int = option(0, help="The head's port; 0: any free one, for one node.", min=0, max=65535)
    vllm: Literal["off", "colocate", "server"] = option(
        "off", help="Generate with vLLM: on the GPUs that train, or on its own."
    )
    vllm_gpus: int = option(1, help="GPUs of the vLLM server.", min=1)
    cpu: bool = option(False, "--cpu", help="On CPUs; the default without a GPU.")
    folder: Path | None = option(None, help="Folder of the files; default launch/RECIPE-STRATEGY.")
    dry_run: bool = option(False, "--dry-run", help="Write the files and show the command; stop.")

    def __post_init__(self) -> None:
        if (self.recipe is None) == (self.resume is None):
            raise UserError("aha launch accelerate takes either a RECIPE or --resume DIR.")
        if self.resume is not None and self.output is not None:
            raise UserError("--output is for a new run; --resume goes on in the run's own folder.")
        if self.allow_change and self.resume is None:
            raise UserError("--allow-change goes with --resume.")

    @cached_property
    def target(self) -> str:
        """The recipe or, with `resume`, the run."""
        from aha.runs import found_run

        return self.recipe if self.recipe is not None else str(found_run(str(self.resume)))

    @property
    def on_cpu(self) -> bool:
        return self.cpu or visible_gpus() == 0

    @property
    def head_port(self) -> int:
        return 29500 if self.nodes > 1 and self.port == 0 else self.port

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
class SweepRequest:
    """`aha sweep`."""

    recipe: RecipeArgument
    vary: list[str] | None = option(
        None, metavar="KEY=V1,V2", help="Try each value; given several times, every combination."
    )
    seeds: int = option(3, help="Runs of each setting, with seeds 0 to N - 1.", min=1)
    overrides: SetOption = None
    output: Path | None = option(None, metavar="DIR", help="Default sweeps/RECIPE.")
    jobs: int | None = option(
        None,
        help="Runs at a time, each with its share of the cores; default one a GPU, or 1.",
        min=1,
    )


@dataclass(frozen=True)
class SlurmRequest:
    """`aha launch slurm`. `nodes` train; the vLLM server's node comes on top."""

    recipe: RecipeArgument
    overrides: SetOption = None
    output: Path | None = option(None, metavar="RUNDIR", help="Default runs/RECIPE-JOBID.")
    nodes: int = option(1, help="Nodes that train.", min=1)
    gpus_per_node: int = option(1, help="0: train on CPUs.", min=0)
    cpus_per_task: int | None = option(None, help="CPU cores of each node.", min=1)
    mem: str | None = option(None, help="Memory of each node, such as 64G.")
    partition: str | None = option(None, help="Partition to run in.")
    account: str | None = option(None, help="Account to charge.")
    qos: str | None = option(None, help="Quality of service.")
    time: str = option("04:00:00", help="Limit of a start, [D-]HH:MM:SS; the job requeues itself.")
    module: list[str] | None = option(None, metavar="NAME", help="`module load NAME` first.")
    container: str | None = option(None, metavar="IMAGE", help="Run in this image with Apptainer.")
    setup: list[str] | None = option(
        None, metavar="LINE", help="A line of bash first, such as activating a venv."
    )
    vllm_node: bool = option(False, "--vllm-node", help="Add a vLLM node; for --engine trl.")
    engine: Literal["native", "trl"] | None = option(None, help="Default: the recipe's.")
    signal_before: int = option(120, help="Save and stop so many seconds before the limit.", min=1)
    strategy: _StrategyOption = "ddp"
    file: Path | None = option(None, metavar="JOB.SH", help="Write the script there.")
    submit: bool = option(False, "--submit", help="Call sbatch.")

    @property
    def processes(self) -> int:
        """Training processes in all: one a GPU, or one a node without GPUs."""
        return self.nodes * max(1, self.gpus_per_node)


@dataclass(frozen=True)
class SageMakerRequest:
    """`aha launch sagemaker`. Errors: UserError for options that exclude each other."""

    recipe: RecipeArgument
    overrides: SetOption = None
    role: str | None = option(None, metavar="ARN", help="The role that the job runs as.")
    instance_type: str | None = option(None, help="Such as ml.g5.2xlarge.")
    instance_count: int = option(1, help="More than one: engine trl.", min=1)
    image: str | None = option(None, metavar="URI", help="Image; default AWS's PyTorch 2.13.")
    region: str | None = option(None, help="Default: AWS's own settings.")
    bucket: str | None = option(
        None, metavar="s3://BUCKET/PREFIX", help="Default s3://sagemaker-REGION-ACCOUNT."
    )
    spot: bool = option(False, "--spot", help="Cheaper; an interrupted job resumes by itself.")
    max_hours: float = option(24.0, help="Longest time of training.")
    max_wait_hours: float | None = option(
        None, help="With --spot: waiting and training together; default twice --max-hours."
    )
    volume_gb: int = option(100, help="Disk of each machine.", min=1)
    name: str | None = option(None, help="Name of the run; a later job of this name resumes it.")
    wheel: Path | None = option(None, help="An aha_zero wheel to install, not the released one.")
    strategy: _StrategyOption = "ddp"
    submit: bool = option(False, "--submit", help="Upload and create the job.")
    local: bool = option(False, "--local", help="Run the entry point here, without AWS's options.")
    folder: Path | None = option(
        None, metavar="DIR", help="With --local: in place of /opt/ml; default runs/sagemaker-DATE."
    )

    def __post_init__(self) -> None:
        if self.local and self.submit:
            raise UserError("--local runs the job here and --submit in SageMaker; choose one.")
        if self.folder is not None and not self.local:
            raise UserError("--folder goes with --local.")


def visible_gpus() -> int:
    """The number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count()
