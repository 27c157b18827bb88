"""The `aha` command. A command's module is imported when the command runs, never before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from aha import __version__
from aha.types import RunFailure, Stopped, UserError

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

# What `--resume` without a folder stands for, see `main`.
_LATEST = "latest"

app = typer.Typer(
    help="Train a small language model to reason with GRPO, and see it learn to check itself.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at a recipe's problems.")
rewards_app = typer.Typer(help="List the rewards, or try one on a text.")
app.add_typer(data_app, name="data")
app.add_typer(rewards_app, name="rewards")

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.max_steps=100."),
]


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A shipped recipe's name or a YAML file; default countdown-tiny."),
    ] = None,
    set_: SetOption = None,
    model: Annotated[str | None, typer.Option(help="model.name")] = None,
    task: Annotated[str | None, typer.Option(help="task.name")] = None,
    rewards: Annotated[
        str | None, typer.Option(help="Names with commas, such as accuracy,format; weight 1 each.")
    ] = None,
    max_steps: Annotated[str | None, typer.Option(help="train.max_steps")] = None,
    learning_rate: Annotated[str | None, typer.Option(help="optimizer.learning_rate")] = None,
    seed: Annotated[str | None, typer.Option(help="train.seed")] = None,
    report_to: Annotated[
        str | None, typer.Option(help="logging.report_to: tensorboard, or none.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Run directory; default runs/RECIPE-DATE.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="[DIR]", help="Go on with a run; without DIR, with the latest."),
    ] = None,
    allow_change: Annotated[
        bool,
        typer.Option(
            "--allow-change", help="With --resume and --set: also what changes the run's meaning."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved recipe and the first prompt; stop.")
    ] = False,
) -> None:
    """Train RECIPE with GRPO, evaluate before and after, and write a report."""
    overrides = list(set_ or [])
    overrides += _short_options(
        {
            "model.name": model,
            "task.name": task,
            "train.max_steps": max_steps,
            "optimizer.learning_rate": learning_rate,
            "train.seed": seed,
        }
    )
    if rewards is not None:
        overrides.append(f"rewards=[{', '.join(f'{{name: {n}}}' for n in rewards.split(','))}]")
    if report_to is not None:
        overrides.append(f"logging.report_to=[{'' if report_to == 'none' else report_to}]")
    if resume is not None:
        _resume(resume, recipe, overrides, output, dry_run, allow_change)
        return
    if allow_change:
        raise UserError("--allow-change goes with --resume; a new run has nothing to change.")
    from aha.recipe import DEFAULT_RECIPE, load_recipe

    loaded = load_recipe(recipe or DEFAULT_RECIPE, overrides)
    if dry_run:
        from aha.train.dry_run import describe

        typer.echo(describe(loaded))
        return
    from aha.train.start import start_run

    start_run(loaded, output)


def _short_options(options: dict[str, str | None]) -> list[str]:
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def _resume(
    resume: str,
    recipe: str | None,
    overrides: list[str],
    output: Path | None,
    dry_run: bool,
    allow_change: bool,
) -> None:
    if recipe or output or dry_run:
        raise UserError(
            "--resume goes on with a run's own recipe in its own folder; it takes --set, but no "
            "recipe, no --output and no --dry-run."
        )
    from aha.runs import latest_run
    from aha.train.start import resume_run

    resume_run(latest_run() if resume == _LATEST else Path(resume), overrides, allow_change)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    figure: Annotated[
        Path | None, typer.Option(help="Also write the main curves to this PNG file.")
    ] = None,
) -> None:
    """Write RUN's report.html from what is in its directory."""
    from aha.report.build import build_report, write_figure
    from aha.runs import RunDirectory

    directory = RunDirectory.open(run)
    if figure is not None and (figure.suffix != ".png" or not figure.parent.is_dir()):
        raise UserError(
            f"--figure is {str(figure)!r}; it must end in .png, in a folder that exists."
        )
    typer.echo(f"report: {build_report(directory)}")
    if figure is not None:
        write_figure(directory, figure)
        typer.echo(f"figure: {figure}")


@data_app.command("show")
def data_show(
    recipe: RecipeArgument = "countdown-tiny",
    set_: SetOption = None,
    split: Annotated[Literal["train", "test"], typer.Option()] = "train",
    n: Annotated[int, typer.Option(help="How many problems.", min=1)] = 5,
) -> None:
    """Show RECIPE's first problems as the model sees them."""
    from aha.recipe import load_recipe
    from aha.tasks.ask import ask
    from aha.tasks.load import load_problems
    from aha.train.policy import load_tokenizer

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
    output: Annotated[Path, typer.Option(help="Folder for train.jsonl and test.jsonl.")],
    set_: SetOption = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="File or hub set; what overlaps with it is left out."),
    ] = None,
) -> None:
    """Write RECIPE's train and test problems, with counts, duplicates and overlap."""
    from aha.recipe import load_recipe
    from aha.tasks.prepare import prepare

    prepared = prepare(load_recipe(recipe, set_ or []).task, output, decontaminate or [])
    for line in prepared.lines():
        typer.echo(line)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from aha.recipe import load_recipe, shipped_recipes

    for name in shipped_recipes():
        typer.echo(f"{name:24} {load_recipe(name).description}")


@app.command()
def tasks() -> None:
    """List the tasks."""
    from aha.tasks.registry import TASKS

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
    name: Annotated[str, typer.Argument(help="A reward's name, or path/file.py:function.")],
    completion: Annotated[Path, typer.Option(help="A file with the completion's text.")],
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A data column, such as target=24 or nums=[3,8]."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the reward.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="The prompt, if its end matters.")] = "",
) -> None:
    """Score one text with the reward NAME, and say why."""
    from aha.rewards.explain import try_reward

    typer.echo(try_reward(name, completion, column or [], option or [], prompt))


@app.command()
def bench(
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure there.")
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="A trained embedded model: run or checkpoint; default the latest."
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="Counted steps of each engine.", min=1)] = 3,
    full: Annotated[
        bool, typer.Option("--full", help="Also by length, rows and model size: half an hour.")
    ] = False,
) -> None:
    """Measure the native engine beside TRL's on this machine: about a quarter of an hour."""
    from aha.bench.command import bench as run_bench

    run_bench(json_, after, runs, full, typer.echo)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"aha {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=_with_resume_value(given), prog_name="aha", standalone_mode=False)
    except TyperException as error:
        _stop(f"error: {' '.join(error.format_message().split())}", EXIT_USER_ERROR)
    except UserError as error:
        _stop(f"error: {error}", EXIT_USER_ERROR)
    except RunFailure as error:
        _stop(f"failed: {error}", EXIT_FAILED)
    except Stopped as stopped:
        _stop(str(stopped), stopped.code)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    # typer turns an interrupt into this code and hands it back.
    if code == EXIT_INTERRUPTED:
        _stop("interrupted; go on from the last checkpoint with --resume", EXIT_INTERRUPTED)
    if code:
        raise SystemExit(code)


def _with_resume_value(arguments: list[str]) -> list[str]:
    """Give a `--resume` that has no folder after it the value that means the latest run."""
    result: list[str] = []
    for index, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[index + 1 : index + 2]
        if argument == "--resume" and (not following or following[0].startswith("-")):
            result.append(_LATEST)
    return result


def _stop(message: str, code: int) -> None:
    typer.echo(message, err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
