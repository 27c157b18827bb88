"""`aha doctor`: its options; `aha.doctor` is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aha.cli.show import SetOption, complete_recipe

_EXIT_UNFIT = 1


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe's name or a YAML file: does it fit into memory?",
            autocompletion=complete_recipe,
        ),
    ] = None,
    set_: SetOption = None,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            help="Ask about another machine, with so much memory.",
            min=0.1,
            max=1_000_000,
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(help="Whose memory that is; default the recipe's device or this machine's."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The model's config.json, where it cannot be had."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also take two real steps and compare.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask whether the hub answers.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object alone on standard output.")
    ] = False,
) -> None:
    """Check this machine; for RECIPE predict its memory and say what would fit.

    Exit code 1 where something makes training impossible.
    """
    from aha.doctor.diagnosis import diagnose

    if measure:
        typer.echo("taking two steps in a separate process ...", err=True)
    report = diagnose(
        recipe,
        set_ or (),
        memory_gib=memory,
        device=device,
        config=config,
        offline=offline,
        measured=measure,
    )
    typer.echo(report.as_json() if json_ else report.as_text())
    if not report.fit:
        raise typer.Exit(_EXIT_UNFIT)
