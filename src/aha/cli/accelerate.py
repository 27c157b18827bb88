"""`aha launch accelerate`: its options; what it does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aha.cli.show import AllowChangeOption, ResumeOption, SetOption, complete_recipe
from aha.launch.layout import Strategy

StrategyOption = Annotated[
    Strategy,
    typer.Option(help="ddp: a copy each; the others share gradients, optimizer, weights."),
]


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
    node_rank: Annotated[int, typer.Option(help="Which of them this is: 0 is the head.")] = 0,
    head: Annotated[str, typer.Option(help="The head's address.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(help="The head's port; 0: any that is free, for one node.", min=0, max=65535),
    ] = 0,
    vllm: Annotated[
        Literal["off", "colocate", "server"],
        typer.Option(help="vLLM generates: on the GPUs that train, or on others of its own."),
    ] = "off",
    vllm_gpus: Annotated[int, typer.Option(help="GPUs of the vLLM server.", min=1)] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="On CPUs; the default without a GPU.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="For the files it writes; default launch/RECIPE-STRATEGY."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the files and show the command; stop.")
    ] = False,
) -> None:
    """Train RECIPE on TRL over several processes, GPUs or machines."""
    from aha.launch.accelerate import Request, launch
    from aha.launch.layout import Layout, visible_gpus
    from aha.runs import found_run
    from aha.types import UserError

    if (recipe is None) == (resume is None):
        raise UserError("aha launch accelerate takes either a RECIPE or --resume DIR.")
    if nodes > 1 and port == 0:
        port = 29500
    on_cpu = cpu or visible_gpus() == 0
    layout = Layout(processes, strategy, nodes, node_rank, head, port, vllm, vllm_gpus, on_cpu)
    target = recipe if recipe is not None else str(found_run(str(resume)))
    request = Request(
        target, layout, set_ or (), output, resume is not None, folder, dry_run, allow_change
    )
    code = launch(request, typer.echo)
    if code:
        raise SystemExit(code)
