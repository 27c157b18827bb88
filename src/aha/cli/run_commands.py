"""The commands that train a model, or look at a run or at the model it trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from aha.cli import (
    AllowChangeOption,
    ResumeOption,
    SetOption,
    complete_recipe,
    complete_rewards,
    complete_task,
)
from aha.types import UserError


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe's name or a YAML file; default countdown-tiny.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    set_: SetOption = None,
    model: Annotated[str | None, typer.Option(help="model.name")] = None,
    task: Annotated[
        str | None, typer.Option(help="task.name", autocompletion=complete_task)
    ] = None,
    rewards: Annotated[
        str | None,
        typer.Option(
            help="Names with commas, such as accuracy,format; weight 1 each.",
            autocompletion=complete_rewards,
        ),
    ] = None,
    max_steps: Annotated[str | None, typer.Option(help="train.max_steps")] = None,
    learning_rate: Annotated[str | None, typer.Option(help="optimizer.learning_rate")] = None,
    seed: Annotated[str | None, typer.Option(help="train.seed")] = None,
    engine: Annotated[
        str | None, typer.Option(help="engine: native, or trl for TRL's GRPOTrainer.")
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train low-rank adapters, not all weights: lora={}.")
    ] = False,
    report_to: Annotated[
        str | None, typer.Option(help="logging.report_to: tensorboard, or none.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Run directory; default runs/RECIPE-DATE.")
    ] = None,
    resume: ResumeOption = None,
    allow_change: AllowChangeOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved recipe and the first prompt; stop.")
    ] = False,
) -> None:
    """Train RECIPE with GRPO, evaluate before and after, and write a report."""
    overrides = ["lora={}"] if lora else []
    overrides += set_ or []
    for key, value in (
        ("model.name", _yaml_text(model)),
        ("task.name", _yaml_text(task)),
        ("train.max_steps", max_steps),
        ("optimizer.learning_rate", learning_rate),
        ("train.seed", seed),
        ("engine", _yaml_text(engine)),
    ):
        if value is not None:
            overrides.append(f"{key}={value}")
    if rewards is not None:
        names = [name.strip() for name in rewards.split(",")]
        overrides.append(f"rewards={json.dumps([{'name': name} for name in names])}")
    if report_to is not None:
        overrides.append(f"logging.report_to=[{'' if report_to == 'none' else report_to}]")
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
    from aha.recipe import DEFAULT_RECIPE, load_recipe

    loaded = load_recipe(DEFAULT_RECIPE if recipe is None else recipe, overrides)
    from aha.trl.choose import describe, start

    if dry_run:
        typer.echo(describe(loaded))
    else:
        start(loaded, output)


def _yaml_text(value: str | None) -> str | None:
    """Quote for YAML: a folder named 2024 must stay a text."""
    return None if value is None else json.dumps(value)


def eval_(
    model: Annotated[str, typer.Argument(help="A run, a checkpoint, a folder or a hub name.")],
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this one, problem by problem.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe that says how to prompt; default the run's.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="task.name")] = None,
    set_: SetOption = None,
    split: Annotated[Literal["train", "test"], typer.Option()] = "test",
    n: Annotated[int | None, typer.Option(help="evaluation.n: how many problems.", min=1)] = None,
    samples: Annotated[
        int, typer.Option(help="Completions a problem; more than one: pass@k, maj@k.", min=1)
    ] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="evaluation.temperature; 0: greedy.", min=0.0)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="train.seed", min=0)] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the completions; default in the run, or evals/."),
    ] = None,
    engine: Annotated[
        Literal["native", "vllm"], typer.Option(help="native: the trainer's own engine; or vllm.")
    ] = "native",
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Accuracy of MODEL on held-out problems, with intervals; or against another model."""
    from aha.trained.held_out import EvalRequest, run_eval

    request = EvalRequest(
        model, against, recipe, set_ or (), task, split, n, samples, temperature, seed, output,
        engine,
    )  # fmt: skip
    result = run_eval(request)
    typer.echo(result.as_json() if json_ else result.as_text())


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are compared.")],
    output: Annotated[
        Path | None, typer.Option(help="The file for several runs; default comparison.html.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also write the main curves to this PNG file.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write every picture there, as PNG.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve it on this machine and follow the run.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(help="With --watch; default 8765; 0: any free port.", min=0, max=65535),
    ] = None,
) -> None:
    """Write a run's report.html from what is in its directory, or compare several runs."""
    from aha.report import ReportRequest, make_report

    make_report(ReportRequest(tuple(runs), output, figure, figures, watch, port), typer.echo)


def samples(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    step: Annotated[int | None, typer.Option(help="Only this step.")] = None,
    grep: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only texts that match; case is ignored.")
    ] = None,
    sort: Annotated[
        Literal["step", "advantage", "reward", "length"],
        typer.Option(help="Show first the last step, the largest advantage, and so on."),
    ] = "step",
    ascending: Annotated[
        bool, typer.Option("--ascending", help="Show first the first step or the smallest value.")
    ] = False,
    n: Annotated[int, typer.Option(help="How many completions.", min=1)] = 10,
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
    model: Annotated[str, typer.Argument(help="A run, a checkpoint, a folder or a hub name.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must be empty or new.")],
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name or file, for a model without a run.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default the weights' own.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also to the hub, as a private model.")
    ] = None,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Also print llama.cpp's command to convert it.")
    ] = False,
) -> None:
    """Write MODEL to FOLDER as transformers and vLLM load it, with a model card."""
    from aha.trained.export import ExportRequest
    from aha.trained.export import export as run_export

    for line in run_export(ExportRequest(model, folder, recipe, dtype, push, gguf)):
        typer.echo(line)


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
            metavar="MODEL", help="Beside this model; default the one it began from; none: alone."
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
    seed: Annotated[int, typer.Option(help="Random seed; each game adds one.", min=0)] = 0,
    max_tokens: Annotated[
        int | None, typer.Option(help="generation.max_completion_length", min=1)
    ] = None,
    pace: Annotated[
        float,
        typer.Option(help="Show at most this many tokens a second; 0: no limit.", min=0.0),
    ] = 60.0,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe that says how to prompt; default the run's.")
    ] = None,
    set_: SetOption = None,
    web: Annotated[
        bool, typer.Option("--web", help="Play in the browser, on a page for this machine only.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(help="With --web; default 8766; 0: any free port.", min=0, max=65535),
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
