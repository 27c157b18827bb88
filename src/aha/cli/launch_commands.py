"""`aha launch`: runs on several GPUs, on a cluster or in a cloud."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import typer

from aha.launch import AccelerateRequest, SageMakerRequest, SlurmRequest
from aha.options import takes

launch_app = typer.Typer(help="Run on a SLURM cluster, on Amazon SageMaker, on several GPUs.")


@launch_app.command("accelerate")
@takes(AccelerateRequest)
def accelerate(request: AccelerateRequest) -> None:
    """Train RECIPE on TRL over several processes, GPUs or machines."""
    from aha.launch.accelerate import launch

    if code := launch(request, typer.echo):
        raise SystemExit(code)


@launch_app.command("slurm")
@takes(SlurmRequest)
def slurm(request: SlurmRequest) -> None:
    """Show, write or submit the sbatch script of a job that trains RECIPE to its end."""
    from aha.launch.slurm import launch

    launch(request, typer.echo)
    if request.output is not None and (request.output / "recipe.yaml").exists():
        typer.echo(f"{request.output} holds a run already: the job goes on with it.", err=True)


@launch_app.command("sagemaker")
@takes(SageMakerRequest)
def sagemaker(request: SageMakerRequest) -> None:
    """Show or submit the SageMaker training job that trains RECIPE; or run it here."""
    from aha.launch import sagemaker as launch

    if request.local:
        place = request.folder or Path("runs") / f"sagemaker-{datetime.now():%Y%m%d-%H%M%S}"
        command, environment = launch.local_command(request, place)
        # The command replaces this process, so that signals reach it as in a container.
        os.execve(command[0], command, environment)  # noqa: S606
    job = launch.training_job(request)
    if request.submit:
        typer.echo(launch.submit(job))
        return
    typer.echo(json.dumps(job.request, indent=2))
    files = ", ".join(sorted(job.files))
    typer.echo(f"not sent; --submit uploads {files} to {job.source_address}", err=True)
