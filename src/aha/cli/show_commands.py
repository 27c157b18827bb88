"""The commands that inspect: problems, recipes, tasks, rewards, this machine and its speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from aha.options import RecipeArgument, SetOption, complete_rewards, recipe_argument
from aha.types import UserError

data_app = typer.Typer(help="Look at a recipe's problems, or write them for elsewhere.")
rewards_app = typer.Typer(help="List the rewards, or try one on a text.")


@data_app.command("show")
def data_show(
    recipe: RecipeArgument = "countdown-tiny",
    set_: SetOption = None,
    split: Literal["train", "test"] = Option("train"),
    n: int = Option(5, help="How many problems.", min=1),
) -> None:
    """Show RECIPE's first problems as the model sees them."""
    from aha.model.load import load_tokenizer
    from aha.recipe import load_recipe
    from aha.tasks import load_problems
    from aha.tasks.prompts import ask

    loaded = load_recipe(recipe, set_ or [])
    tokenizer: Any = load_tokenizer(loaded.model)
    found = load_problems(loaded.task, split, n)
    if losses := found.losses():
        typer.echo(losses)
    for problem, prompt in zip(found.problems, ask(found.problems, loaded, tokenizer), strict=True):
        typer.echo(f"{dict(problem.columns)}")
        typer.echo(tokenizer.decode(list(prompt.token_ids)) + "\n")


@data_app.command("prepare")
def data_prepare(
    recipe: RecipeArgument,
    output: Path = Option(help="Folder for train.jsonl and test.jsonl."),
    set_: SetOption = None,
    decontaminate: list[str] | None = Option(
        None, metavar="SET", help="A file or hub set; problems that overlap with it are left out."
    ),
) -> None:
    """Write RECIPE's train and test problems, with counts, duplicates and overlap."""
    from aha.recipe import load_recipe
    from aha.tasks import TASKS
    from aha.tasks.data import prepare

    section = load_recipe(recipe, set_ or []).task
    for line in prepare(TASKS[section.name], section, output, decontaminate or []):
        typer.echo(line)


@data_app.command("harness")
def data_harness(
    recipe: RecipeArgument,
    folder: Path = Argument(help="Where to; must not hold anything yet."),
    set_: SetOption = None,
    split: Literal["train", "test"] = Option("test"),
    n: int | None = Option(None, "--n", "-n", help="evaluation.n: how many problems.", min=1),
) -> None:
    """Write RECIPE's problems to FOLDER as a task of lm-evaluation-harness."""
    from aha.evaluate.lm_harness import write_task
    from aha.model.load import load_tokenizer
    from aha.recipe import load_recipe
    from aha.tasks import load_problems
    from aha.tasks.prompts import ask

    loaded = load_recipe(recipe, [*(set_ or []), *([f"evaluation.n={n}"] if n else [])])
    if loaded.evaluation.n == 0:
        raise UserError("evaluation.n is 0, so there is nothing to write; add --n 500.")
    tokenizer: Any = load_tokenizer(loaded.model)
    problems = load_problems(loaded.task, split, loaded.evaluation.n).problems
    prompts = ask(problems, loaded, tokenizer)
    for line in write_task(loaded, problems, prompts, tokenizer, folder):
        typer.echo(line)


def recipes() -> None:
    """List the shipped recipes."""
    from aha.recipe import load_recipe, shipped_recipes

    for name in shipped_recipes():
        typer.echo(f"{name:24} {load_recipe(name).description}")


def tasks(
    gym: bool = Option(False, "--gym", help="List reasoning-gym's sets, an example of each."),
) -> None:
    """List the tasks."""
    from aha.tasks import TASKS
    from aha.tasks.reasoning_gym import describe_sets

    if gym:
        for paragraph in describe_sets():
            typer.echo(paragraph)
        return

    for name, spec in TASKS.items():
        typer.echo(f"{name:24} {spec.summary}")


@rewards_app.callback(invoke_without_command=True)
def rewards_list(context: typer.Context) -> None:
    """List the rewards, or try one."""
    if context.invoked_subcommand is not None:
        return
    from aha.rewards import REWARDS

    for name, reward in sorted(REWARDS.items()):
        first = " ".join((reward.__doc__ or "").split("\n\n")[0].split())
        typer.echo(f"{name:20} {first}")


@rewards_app.command("try")
def rewards_try(
    name: str = Argument(
        help="A reward's name, or path/file.py:function.", autocompletion=complete_rewards
    ),
    completion: Path = Option(help="A file with the completion's text."),
    column: list[str] | None = Option(
        None, metavar="NAME=VALUE", help="A data column, such as target=24 or nums=[3,8]."
    ),
    option: list[str] | None = Option(None, metavar="NAME=VALUE", help="An option of the reward."),
    prompt: str = Option("", help="The prompt, if the reward reads its end."),
) -> None:
    """Score one text with the reward NAME, and say why."""
    from aha.rewards.call import try_reward

    typer.echo(try_reward(name, completion, column or [], option or [], prompt))


def bench(
    json_: Path | None = Option(None, "--json", metavar="FILE", help="Write every figure there."),
    after: str | None = Option(
        None, metavar="RUN", help="A run or checkpoint of the embedded model; default the latest."
    ),
    runs: int = Option(3, help="Counted steps of each engine.", min=1),
    full: bool = Option(False, "--full", help="Also by length, rows and model size: half an hour."),
) -> None:
    """Measure the native engine beside TRL's on this machine: about a quarter of an hour."""
    from aha.bench.against_trl import bench as run_bench

    run_bench(json_, after, runs, full)


def doctor(
    recipe: Annotated[str | None, recipe_argument(": does it fit into memory?")] = None,
    set_: SetOption = None,
    memory: float | None = Option(
        None, metavar="GIB", help="Predict for a machine with this much memory.", min=0.1, max=10**6
    ),
    device: str | None = Option(
        None,
        metavar="DEVICE",
        help="cpu, cuda or a card, such as l4, 4090, a100-80 or h100: the device of --memory, "
        "which a card has. Default the recipe's or this machine's.",
    ),
    estimate: bool = Option(
        False, "--estimate", help="Also estimate seconds, hours and cost on --device CARD."
    ),
    gpus: int = Option(1, help="Cards of --estimate.", min=1),
    price: float | None = Option(None, help="Of one card for an hour.", min=0),
    length: float | None = Option(
        None, metavar="TOKENS", help="Mean completion of --estimate; default half the limit.", min=1
    ),
    config: Path | None = Option(
        None, metavar="FILE", help="The model's config.json, if the hub cannot be reached."
    ),
    measure: bool = Option(False, "--measure", help="Also take two real steps and compare."),
    offline: bool = Option(False, "--offline", help="Do not ask whether the hub answers."),
    json_: bool = Option(False, "--json", help="Print one JSON object and nothing else."),
) -> None:
    """Check this machine; for RECIPE predict its memory and say what would fit.

    The exit code is 1 if training is impossible.
    """
    from aha.doctor.diagnosis import diagnose

    if measure:
        typer.echo("taking two steps in a separate process ...", err=True)
    report = diagnose(
        recipe,
        set_ or (),
        memory_gib=memory,
        device=device,
        timed=estimate,
        gpus=gpus,
        price=price,
        length=length,
        config=config,
        offline=offline,
        measured=measure,
    )
    typer.echo(report.as_json() if json_ else report.as_text())
    if not report.fit:
        raise typer.Exit(1)
