"""`aha play`: its options. What they do is in `aha.play`, imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from aha.cli.show import SetOption


def play(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A run, a checkpoint, a folder or a hub name; default the latest run of the "
            "embedded model, or that model."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Beside this one; default what it began from. none: alone."
        ),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Play this one and stop, such as '15 from 3 13 5'."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Completions of each model.", min=1, max=64)] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="evaluation.temperature; 0: greedy.", min=0.0)
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the random numbers; one more each game.", min=0)
    ] = 0,
    max_tokens: Annotated[
        int | None, typer.Option(help="generation.max_completion_length", min=1)
    ] = None,
    pace: Annotated[
        float,
        typer.Option(help="Tokens a second to show at most; 0: as they are written.", min=0.0),
    ] = 60.0,
    recipe: Annotated[
        str | None, typer.Option(help="How to ask: a recipe's name or file; default the run's.")
    ] = None,
    set_: SetOption = None,
    web: Annotated[bool, typer.Option("--web", help="On a page for this machine only.")] = False,
    port: Annotated[
        int | None,
        typer.Option(help="With --web; default 8766, 0: any that is free.", min=0, max=65535),
    ] = None,
) -> None:
    """Watch MODEL solve problems beside the model it began from, every step checked."""
    from aha.play import play as play_game

    play_game(
        model,
        against,
        recipe=recipe,
        overrides=set_ or (),
        max_tokens=max_tokens,
        problem=problem,
        samples=samples,
        temperature=temperature,
        seed=seed,
        pace=pace,
        web=web,
        port=port,
    )
