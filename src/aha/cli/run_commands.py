"""The commands that train a model, or look at a run or at the model it trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from aha.evaluate import EvalRequest
from aha.launch import SweepRequest
from aha.options import (
    AllowChangeOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    TemperatureOption,
    complete_rewards,
    complete_task,
    recipe_argument,
    takes,
)
from aha.types import UserError


def train(
    recipe: Annotated[str | None, recipe_argument("; default countdown-tiny.")] = None,
    set_: SetOption = None,
    model: str | None = Option(None, help="model.name"),
    task: str | None = Option(None, help="task.name", autocompletion=complete_task),
    rewards: str | None = Option(
        None,
        help="Names with commas, such as accuracy,format; weight 1 each.",
        autocompletion=complete_rewards,
    ),
    max_steps: str | None = Option(None, help="train.max_steps"),
    learning_rate: str | None = Option(None, help="optimizer.learning_rate"),
    seed: str | None = Option(None, help="train.seed"),
    engine: str | None = Option(None, help="engine: native, or trl for TRL's GRPOTrainer."),
    lora: bool = Option(False, "--lora", help="Train low-rank adapters, not all weights: lora={}."),
    report_to: str | None = Option(None, help="logging.report_to: tensorboard, or none."),
    output: Path | None = Option(None, help="Run directory; default runs/RECIPE-DATE."),
    resume: ResumeOption = None,
    allow_change: AllowChangeOption = False,
    dry_run: bool = Option(False, "--dry-run", help="Show the recipe and the first prompt; stop."),
) -> None:
    """Train RECIPE with GRPO, evaluate before and after, and write a report."""
    from aha.recipe import DEFAULT_RECIPE, load_recipe, named_overrides

    overrides = named_overrides(
        set_ or [],
        lora=lora,
        model=model,
        task=task,
        engine=engine,
        max_steps=max_steps,
        learning_rate=learning_rate,
        seed=seed,
        rewards=rewards,
        report_to=report_to,
    )
    if resume is not None:
        if recipe is not None or output is not None or dry_run:
            raise UserError(
                "--resume goes on with a run's own recipe in its own folder; it takes --set, but "
                "no recipe, no --output and no --dry-run."
            )
        from aha.runs import found_run
        from aha.trl.choose import resume as resume_run

        resume_run(found_run(resume), overrides, allow_change)
        return
    if allow_change:
        raise UserError("--allow-change goes with --resume; a new run has nothing to change.")
    loaded = load_recipe(DEFAULT_RECIPE if recipe is None else recipe, overrides)
    from aha.trl.choose import describe, start

    if dry_run:
        typer.echo(describe(loaded))
    else:
        start(loaded, output)


@takes(SweepRequest)
def sweep(request: SweepRequest) -> None:
    """Train RECIPE with every combination of some settings over several seeds, and compare them.

    The same command goes on with a sweep that was stopped.
    """
    from aha.launch.sweep import sweep as run_sweep

    run_sweep(request, typer.echo)


@takes(EvalRequest)
def eval_(request: EvalRequest) -> None:
    """Accuracy of MODEL on held-out problems, with intervals; or against another model."""
    from aha.trained.held_out import run_eval

    result = run_eval(request)
    typer.echo(result.as_json() if request.json else result.as_text())


def report(
    runs: list[Path] = Argument(help="Run directories; several are compared."),
    output: Path | None = Option(None, help="The file for several runs; default comparison.html."),
    figure: Path | None = Option(None, help="Also write the main curves to this PNG file."),
    figures: Path | None = Option(None, metavar="DIR", help="Also write every picture, as PNG."),
    watch: bool = Option(False, "--watch", help="Serve it on this machine and follow the run."),
    port: int | None = Option(None, help="With --watch; default 8765; 0: any.", min=0, max=65535),
) -> None:
    """Write a run's report.html from what is in its directory, or compare several runs."""
    from aha.report import make_report

    make_report(
        runs, typer.echo, output=output, figure=figure, figures=figures, watch=watch, port=port
    )


def samples(
    run: Path = Argument(help="A run directory."),
    step: int | None = Option(None, help="Only this step."),
    grep: str | None = Option(None, metavar="PATTERN", help="Only matching texts; ignores case."),
    sort: Literal["step", "advantage", "reward", "length"] = Option(
        "step", help="Show first the last step, the largest advantage, and so on."
    ),
    ascending: bool = Option(False, "--ascending", help="The first step or smallest value first."),
    n: int = Option(10, help="How many completions.", min=1),
) -> None:
    """Browse the completions that RUN kept, with their rewards and advantages."""
    from aha.observe.samples import browse, nothing_found, shown_text
    from aha.runs import RunDirectory

    opened = RunDirectory.open(run)
    found = browse(opened, step, grep, sort, ascending, n)
    for shown in found:
        typer.echo(shown_text(shown))
    if not found:
        typer.echo(nothing_found(opened, step, grep, sort))


def export(
    model: str = Argument(help="A run, a checkpoint, a folder or a hub name."),
    folder: Path = Argument(help="The folder to write; it must be empty or new."),
    recipe: str | None = Option(None, help="A recipe's name or file, for a model without a run."),
    dtype: str | None = Option(None, help="float32, bfloat16, float16; default the weights' own."),
    push: str | None = Option(None, metavar="OWNER/NAME", help="Also to the hub, kept private."),
    gguf: bool = Option(False, "--gguf", help="Also print llama.cpp's command to convert it."),
) -> None:
    """Write MODEL to FOLDER as transformers and vLLM load it, with a model card."""
    from aha.trained.export import export as run_export

    for line in run_export(model, folder, recipe=recipe, dtype=dtype, push=push, gguf=gguf):
        typer.echo(line)


def play(
    model: str | None = Argument(
        None,
        help="A run, a checkpoint, a folder or a hub name; default the latest run of the "
        "embedded model, or that model.",
    ),
    against: str | None = Option(
        None, metavar="MODEL", help="Beside this model; default the one it began from; none: alone."
    ),
    problem: str | None = Option(
        None, metavar="TEXT", help="Play this one and stop, such as '15 from 3 13 5'."
    ),
    samples: int = Option(1, help="Completions of each model.", min=1, max=64),
    temperature: TemperatureOption = None,
    seed: int = Option(0, help="Random seed; each game adds one.", min=0),
    max_tokens: int | None = Option(None, help="generation.max_completion_length", min=1),
    pace: float = Option(60.0, help="Show at most so many tokens a second; 0: no limit.", min=0.0),
    recipe: RecipeOption = None,
    set_: SetOption = None,
    web: bool = Option(False, "--web", help="Play in the browser, on a page of this machine only."),
    port: int | None = Option(None, help="With --web; default 8766; 0: any.", min=0, max=65535),
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
