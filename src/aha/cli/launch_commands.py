"""`aha launch`: runs on several GPUs, on a cluster or in a cloud."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

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
    typer.Option(help="ddp: a copy each; the others share gradients, optimizer, weights."),
]


@launch_app.command("accelerate")
def accelerate(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe's name or a YAML file; or --resume.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(help="Processes that train, in all: one a GPU.", min=1)
    ] = 1,
    strategy: StrategyOption = "ddp",
    set_: SetOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Run directory; on several nodes, one that all see.")
    ] = None,
    resume: ResumeOption = None,
    allow_change: AllowChangeOption = False,
    nodes: Annotated[int, typer.Option(help="Machines; run this on each of them.", min=1)] = 1,
    node_rank: Annotated[int, typer.Option(help="The number of this machine: 0 is the head.")] = 0,
    head: Annotated[str, typer.Option(help="The head's address.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(help="The head's port; 0: any free one, for one node.", min=0, max=65535),
    ] = 0,
    vllm: Annotated[
        Literal["off", "colocate", "server"],
        typer.Option(help="Generate with vLLM: on the GPUs that train, or on its own."),
    ] = "off",
    vllm_gpus: Annotated[int, typer.Option(help="GPUs of the vLLM server.", min=1)] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="On CPUs; the default without a GPU.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; default launch/RECIPE-STRATEGY."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the files and show the command; stop.")
    ] = False,
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
    output: Annotated[
        Path | None,
        typer.Option(metavar="RUNDIR", help="Run directory; default runs/RECIPE-JOBID."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Nodes that train.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="0: train on CPUs.")] = 1,
    cpus_per_task: Annotated[int | None, typer.Option(help="CPU cores of each node.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of each node, such as 64G.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition to run in.")] = None,
    account: Annotated[str | None, typer.Option(help="Account to charge.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    time: Annotated[
        str, typer.Option(help="Time limit of one start, [D-]HH:MM:SS; the job requeues itself.")
    ] = "04:00:00",
    module: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="`module load NAME` first.")
    ] = None,
    container: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Run in this image, with Apptainer.")
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(metavar="LINE", help="A line of bash first, such as activating a venv."),
    ] = None,
    vllm_node: Annotated[
        bool, typer.Option("--vllm-node", help="Add a node with a vLLM server; for --engine trl.")
    ] = False,
    engine: Annotated[
        Literal["native", "trl"] | None, typer.Option(help="Default: the recipe's.")
    ] = None,
    signal_before: Annotated[
        int, typer.Option(help="Seconds before the limit at which to save and stop.")
    ] = 120,
    strategy: StrategyOption = "ddp",
    file: Annotated[
        Path | None, typer.Option(metavar="JOB.SH", help="Write the script there.")
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Call sbatch.")] = False,
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
    role: Annotated[
        str | None, typer.Option(metavar="ARN", help="The role that the job runs as.")
    ] = None,
    instance_type: Annotated[str | None, typer.Option(help="Such as ml.g5.2xlarge.")] = None,
    instance_count: Annotated[int, typer.Option(help="More than one: engine trl.")] = 1,
    image: Annotated[
        str | None, typer.Option(metavar="URI", help="Container image; default AWS's PyTorch 2.13.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Default: AWS's own settings.")] = None,
    bucket: Annotated[
        str | None,
        typer.Option(metavar="s3://BUCKET/PREFIX", help="Default s3://sagemaker-REGION-ACCOUNT."),
    ] = None,
    spot: Annotated[
        bool, typer.Option("--spot", help="Cheaper; an interrupted job resumes by itself.")
    ] = False,
    max_hours: Annotated[float, typer.Option(help="Longest time of training.")] = 24.0,
    max_wait_hours: Annotated[
        float | None,
        typer.Option(help="With --spot: waiting and training together; default twice --max-hours."),
    ] = None,
    volume_gb: Annotated[int, typer.Option(help="Disk of each machine.")] = 100,
    name: Annotated[
        str | None,
        typer.Option(help="The run's name; a later job of the same name resumes it."),
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="An aha_zero wheel to install instead of the released one.")
    ] = None,
    strategy: StrategyOption = "ddp",
    submit: Annotated[bool, typer.Option("--submit", help="Upload and create the job.")] = False,
    local: Annotated[
        bool,
        typer.Option("--local", help="Run the job's entry point here; AWS's options are ignored."),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --local: in place of /opt/ml; default runs/sagemaker-DATE."
        ),
    ] = None,
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
