"""Command-line options that several commands share, and commands whose options are a dataclass.

No torch. The names that a shell completes are imported when it asks for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import field, fields
from typing import Annotated, Any, TypeVar

from typer import Argument, Option

Request = TypeVar("Request")


def option(default: Any, *names: str, **settings: Any) -> Any:
    """typer's `Option` as a field of a dataclass that a command `takes`."""
    return field(default=default, metadata={"option": Option(default, *names, **settings)})


def takes(request: type[Request]) -> Callable[[Callable[[Request], None]], Callable[..., None]]:
    """Make a command of a function: the fields of the dataclass `request` are its options."""
    options = {one.name: one.metadata.get("option") for one in fields(request)}  # type: ignore[arg-type]
    signature = inspect.signature(request, eval_str=True)
    parameters = [
        parameter.replace(default=options[name] or parameter.default)
        for name, parameter in signature.parameters.items()
    ]

    def command_of(function: Callable[[Request], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            function(request(**values))

        command.__doc__ = function.__doc__
        # typer reads the options from here.
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return command_of


def complete_recipe(incomplete: str) -> list[str]:
    """The shell completes file names where no recipe fits."""
    from aha.recipe import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    from aha.tasks import TASKS

    return [name for name in TASKS if name.startswith(incomplete)]


def complete_rewards(incomplete: str) -> list[str]:
    """Complete the last of several names with commas."""
    from aha.rewards import REWARDS

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in sorted(REWARDS) if name.startswith(last)]


def recipe_argument(more: str) -> Any:
    """The argument RECIPE; `more` ends its help."""
    return Argument(
        help=f"A shipped recipe's name or a YAML file{more}", autocompletion=complete_recipe
    )


RecipeArgument = Annotated[str, recipe_argument(".")]
RecipeOption = Annotated[
    str | None, Option(help="The recipe that says how to prompt; default the run's.")
]
TemperatureOption = Annotated[
    float | None, Option(help="evaluation.temperature; 0: greedy.", min=0.0)
]
SetOption = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.max_steps=100."),
]
ResumeOption = Annotated[
    str | None,
    Option(metavar="[DIR]", help="Go on with a run; without DIR, with the latest."),
]
AllowChangeOption = Annotated[
    bool,
    Option("--allow-change", help="With --resume and --set: also what changes the run's meaning."),
]
