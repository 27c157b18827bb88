"""`aha launch`: runs on several GPUs, on a cluster or in a cloud."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from aha.cli import (
    AllowChangeOption,
    RecipeArgument,
    ResumeOption,
    SetOption,
    complete_recipe,
)
from aha.launch import Strategy
from aha.types import UserError

launch_app = typer.Typer(help="Run on a SLURM cluster, on Amazon SageMaker, on several GPUs.")
StrategyOption = Annotated[
    Strategy,
    Option(help="ddp: a copy each; the others share gradients, optimizer, weights."),
]


@launch_app.command("accelerate")
def accelerate(
    recipe: str | None = Argument(
        None,
        help="A shipped recipe's name or a YAML file; or --resume.",
        autocompletion=complete_recipe,
    ),
    processes: int = Option(1, help="Processes that train, in all: one a GPU.", min=1),
    strategy: StrategyOption = "ddp",
    set_: SetOption = None,
    output: Path | None = Option(None, help="Run directory; on several nodes, one that all see."),
    resume: ResumeOption = None,
    allow_change: AllowChangeOption = False,
    nodes: int = Option(1, help="Machines; run this on each of them.", min=1),
    node_rank: int = Option(0, help="The number of this machine: 0 is the head."),
    head: str = Option("127.0.0.1", help="The head's address."),
    port: int = Option(0, help="The head's port; 0: any free one, for one node.", min=0, max=65535),
    vllm: Literal["off", "colocate", "server"] = Option(
        "off", help="Generate with vLLM: on the GPUs that train, or on its own."
    ),
    vllm_gpus: int = Option(1, help="GPUs of the vLLM server.", min=1),
    cpu: bool = Option(False, "--cpu", help="On CPUs; the default without a GPU."),
    folder: Path | None = Option(None, help="Folder of the files; default launch/RECIPE-STRATEGY."),
    dry_run: bool = Option(False, "--dry-run", help="Write the files and show the command; stop."),
) -> None:
    """Train RECIPE on TRL over several processes, GPUs or machines."""
    from aha.launch.accelerate import AccelerateRequest, Layout, launch, visible_gpus
    from aha.runs import found_run

    if (recipe is None) == (resume is None):
        raise UserError("aha launch accelerate takes either a RECIPE or --resume DIR.")
    if nodes > 1 and port == 0:
        port = 29500
    on_cpu = cpu or visible_gpus() == 0
    layout = Layout(processes, strategy, nodes, node_rank, head, port, vllm, vllm_gpus, on_cpu)
    target = recipe if recipe is not None else str(found_run(str(resume)))
    request = AccelerateRequest(
        target, layout, set_ or (), output, resume is not None, folder, dry_run, allow_change
    )
    code = launch(request, typer.echo)
    if code:
        raise SystemExit(code)


@launch_app.command("slurm")
def slurm(
    recipe: RecipeArgument,
    set_: SetOption = None,
    output: Path | None = Option(None, metavar="RUNDIR", help="Default runs/RECIPE-JOBID."),
    nodes: int = Option(1, help="Nodes that train.", min=1),
    gpus_per_node: int = Option(1, help="0: train on CPUs.", min=0),
    cpus_per_task: int | None = Option(None, help="CPU cores of each node.", min=1),
    mem: str | None = Option(None, help="Memory of each node, such as 64G."),
    partition: str | None = Option(None, help="Partition to run in."),
    account: str | None = Option(None, help="Account to charge."),
    qos: str | None = Option(None, help="Quality of service."),
    time: str = Option("04:00:00", help="Limit of a start, [D-]HH:MM:SS; the job requeues itself."),
    module: list[str] | None = Option(None, metavar="NAME", help="`module load NAME` first."),
    container: str | None = Option(None, metavar="IMAGE", help="Run in this image with Apptainer."),
    setup: list[str] | None = Option(
        None, metavar="LINE", help="A line of bash first, such as activating a venv."
    ),
    vllm_node: bool = Option(False, "--vllm-node", help="Add a vLLM node; for --engine trl."),
    engine: Literal["native", "trl"] | None = Option(None, help="Default: the recipe's."),
    signal_before: int = Option(120, help="Save and stop so many seconds before the limit.", min=1),
    strategy: StrategyOption = "ddp",
    file: Path | None = Option(None, metavar="JOB.SH", help="Write the script there."),
    submit: bool = Option(False, "--submit", help="Call sbatch."),
) -> None:
    """Show, write or submit the sbatch script of a job that trains RECIPE to its end."""
    from aha.launch.slurm import SlurmRequest, launch

    request = SlurmRequest(
        recipe, set_ or (), output, nodes, gpus_per_node, cpus_per_task, mem, partition, account,
        qos, time, module or (), container, setup or (), vllm_node, engine, signal_before,
        strategy,
    )  # fmt: skip
    launch(request, file, submit, typer.echo)
    if output is not None and (output / "recipe.yaml").exists():
        typer.echo(f"{output} holds a run already: the job goes on with it.", err=True)


@launch_app.command("sagemaker")
def sagemaker(
    recipe: RecipeArgument,
    set_: SetOption = None,
    role: str | None = Option(None, metavar="ARN", help="The role that the job runs as."),
    instance_type: str | None = Option(None, help="Such as ml.g5.2xlarge."),
    instance_count: int = Option(1, help="More than one: engine trl.", min=1),
    image: str | None = Option(None, metavar="URI", help="Image; default AWS's PyTorch 2.13."),
    region: str | None = Option(None, help="Default: AWS's own settings."),
    bucket: str | None = Option(
        None, metavar="s3://BUCKET/PREFIX", help="Default s3://sagemaker-REGION-ACCOUNT."
    ),
    spot: bool = Option(False, "--spot", help="Cheaper; an interrupted job resumes by itself."),
    max_hours: float = Option(24.0, help="Longest time of training."),
    max_wait_hours: float | None = Option(
        None, help="With --spot: waiting and training together; default twice --max-hours."
    ),
    volume_gb: int = Option(100, help="Disk of each machine.", min=1),
    name: str | None = Option(None, help="Name of the run; a later job of this name resumes it."),
    wheel: Path | None = Option(None, help="An aha_zero wheel to install, not the released one."),
    strategy: StrategyOption = "ddp",
    submit: bool = Option(False, "--submit", help="Upload and create the job."),
    local: bool = Option(False, "--local", help="Run the entry point here, without AWS's options."),
    folder: Path | None = Option(
        None, metavar="DIR", help="With --local: in place of /opt/ml; default runs/sagemaker-DATE."
    ),
) -> None:
    """Show or submit the SageMaker training job that trains RECIPE; or run it here."""
    from aha.launch import sagemaker as launch

    request = launch.SageMakerRequest(
        recipe, set_ or (), role, instance_type, instance_count, image, region, bucket, spot,
        max_hours, max_wait_hours, volume_gb, name, wheel, strategy,
    )  # fmt: skip
    if local and submit:
        raise UserError("--local runs the job here and --submit in SageMaker; choose one.")
    if folder is not None and not local:
        raise UserError("--folder goes with --local.")
    if local:
        place = folder or Path("runs") / f"sagemaker-{datetime.now():%Y%m%d-%H%M%S}"
        command, environment = launch.local_command(launch.make_source(request), place)
        # The command replaces this process, so that signals reach it as in a container.
        os.execve(command[0], command, environment)  # noqa: S606
    job = launch.training_job(request)
    if submit:
        typer.echo(launch.submit(job))
        return
    typer.echo(json.dumps(dict(job.request), indent=2))
    files = ", ".join(sorted(job.source.files))
    typer.echo(f"not sent; --submit uploads {files} to {job.source_address}", err=True)
