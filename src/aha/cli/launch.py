"""`aha launch`: runs on a cluster or in a cloud. Each command's module is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aha.cli.accelerate import StrategyOption, accelerate
from aha.cli.show import RecipeArgument, SetOption

launch_app = typer.Typer(help="Run on a SLURM cluster, on Amazon SageMaker, on several GPUs.")
launch_app.command("accelerate")(accelerate)


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
        bool, typer.Option("--vllm-node", help="One more node, for a vLLM server; --engine trl.")
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
    from aha.launch import slurm as launch

    request = launch.Request(
        recipe, set_ or (), output, nodes, gpus_per_node, cpus_per_task, mem, partition, account,
        qos, time, module or (), container, setup or (), vllm_node, engine, signal_before,
        strategy,
    )  # fmt: skip
    text = launch.slurm_script(request)
    sbatch = launch.require_sbatch() if submit else None
    if file is not None:
        launch.write_script(text, file)
    if output is not None and (output / "recipe.yaml").exists():
        typer.echo(f"{output} holds a run already: the job goes on with it.", err=True)
    if sbatch is not None:
        typer.echo(launch.submit(text, sbatch))
    elif file is not None:
        typer.echo(f"wrote {file}; submit it with: sbatch {file}")
    else:
        typer.echo(text, nl=False)


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
        bool, typer.Option("--spot", help="Cheaper; an interrupted job goes on by itself.")
    ] = False,
    max_hours: Annotated[float, typer.Option(help="Longest time of training.")] = 24.0,
    max_wait_hours: Annotated[
        float | None,
        typer.Option(help="With --spot: waiting and training; default twice --max-hours."),
    ] = None,
    volume_gb: Annotated[int, typer.Option(help="Disk of each machine.")] = 100,
    name: Annotated[
        str | None,
        typer.Option(help="Of the run; a later job of that name goes on with it."),
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="An aha_zero wheel to install, not the index's.")
    ] = None,
    strategy: StrategyOption = "ddp",
    submit: Annotated[bool, typer.Option("--submit", help="Upload and create the job.")] = False,
    local: Annotated[
        bool,
        typer.Option("--local", help="Run the job's entry point here; AWS's options play no part."),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --local: in place of /opt/ml; default runs/sagemaker-DATE."
        ),
    ] = None,
) -> None:
    """Show or submit the SageMaker training job that trains RECIPE; or run it here."""
    import json
    import os
    from datetime import datetime

    from aha.launch import sagemaker as launch
    from aha.launch import sagemaker_api as api
    from aha.types import UserError

    request = launch.Request(
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
        # In this process's place, so that signals reach it as in a container.
        os.execve(command[0], command, environment)  # noqa: S606
    job = launch.training_job(request)
    if not submit:
        typer.echo(json.dumps(dict(job.request), indent=2))
        files = ", ".join(sorted(job.source.files))
        typer.echo(f"not sent; --submit uploads {files} to {job.source_address}", err=True)
        return
    typer.echo(api.submit(job.request, job.source.files, job.source_address, job.region))
