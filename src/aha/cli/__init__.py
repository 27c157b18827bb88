"""The command line: options and their help. The work is done elsewhere.

Here are the options that several commands share, and the names that a shell completes.
"""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option


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


RecipeArgument = Annotated[
    str,
    Argument(help="A shipped recipe's name or a YAML file.", autocompletion=complete_recipe),
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
RecipeOption = Annotated[
    str | None, Option(help="The recipe that says how to prompt; default the run's.")
]
TemperatureOption = Annotated[
    float | None, Option(help="evaluation.temperature; 0: greedy.", min=0.0)
]
