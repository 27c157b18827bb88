"""The `aha` command. A command's module is imported when the command runs, never before."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from typer.exceptions import TyperException

from aha import __version__
from aha.cli.doctor import doctor
from aha.cli.launch import launch_app
from aha.cli.play import play
from aha.cli.show import (
    AllowChangeOption,
    ResumeOption,
    SetOption,
    bench,
    complete_recipe,
    complete_rewards,
    complete_task,
    data_app,
    recipes,
    rewards_app,
    tasks,
)
from aha.launch.layout import EXIT_CODE_FILE
from aha.types import RunFailure, Stopped, UserError

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="Train a small language model to reason with GRPO, and see it learn to check itself.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
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
    overrides = list(set_ or [])
    overrides += _short_options(
        {
            "model.name": _text(model),
            "task.name": _text(task),
            "train.max_steps": max_steps,
            "optimizer.learning_rate": learning_rate,
            "train.seed": seed,
            "engine": _text(engine),
        }
    )
    if lora:
        overrides.insert(0, "lora={}")
    if rewards is not None:
        names = [name.strip() for name in rewards.split(",")]
        overrides.append(f"rewards={json.dumps([{'name': name} for name in names])}")
    if report_to is not None:
        overrides.append(f"logging.report_to=[{'' if report_to == 'none' else report_to}]")
    if resume is not None:
        _resume(resume, recipe, overrides, output, dry_run, allow_change)
        return
    if allow_change:
        raise UserError("--allow-change goes with --resume; a new run has nothing to change.")
    from aha.recipe import DEFAULT_RECIPE, load_recipe

    loaded = load_recipe(DEFAULT_RECIPE if recipe is None else recipe, overrides)
    from aha.trl.choose import describe, start

    if dry_run:
        typer.echo(describe(loaded))
        return
    start(loaded, output)


def _text(value: str | None) -> str | None:
    """As YAML that is a text whatever it looks like: a folder may be called 2024."""
    return None if value is None else json.dumps(value)


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
    if recipe is not None or output is not None or dry_run:
        raise UserError(
            "--resume goes on with a run's own recipe in its own folder; it takes --set, but no "
            "recipe, no --output and no --dry-run."
        )
    from aha.runs import found_run
    from aha.trl.choose import resume as go_on

    go_on(found_run(resume), overrides, allow_change)


@app.command("eval")
def eval_(
    model: Annotated[str, typer.Argument(help="A run, a checkpoint, a folder or a hub name.")],
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this one, problem by problem.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="How to ask: a recipe's name or file; default the run's.")
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
        Literal["native", "vllm"], typer.Option(help="What writes: the trainer's own, or vLLM.")
    ] = "native",
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object alone on standard output.")
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


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are compared.")],
    output: Annotated[
        Path | None, typer.Option(help="Of several runs; default comparison.html.")
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
        typer.Option(help="With --watch; default 8765, 0: any that is free.", min=0, max=65535),
    ] = None,
) -> None:
    """Write a run's report.html from what is in its directory, or compare several runs."""
    from aha.report import ReportRequest, make_report

    make_report(ReportRequest(tuple(runs), output, figure, figures, watch, port), typer.echo)


@app.command()
def samples(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    step: Annotated[int | None, typer.Option(help="Only of this step.")] = None,
    grep: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only texts that match; case is ignored.")
    ] = None,
    sort: Annotated[
        Literal["step", "advantage", "reward", "length"],
        typer.Option(help="What comes first: the last step, the most advantage, and so on."),
    ] = "step",
    ascending: Annotated[
        bool, typer.Option("--ascending", help="The first step or the least comes first.")
    ] = False,
    n: Annotated[int, typer.Option(help="How many completions.", min=1)] = 10,
) -> None:
    """Browse the completions that RUN kept, with their rewards and advantages."""
    from aha.observe.samples import SamplesQuery, browse, nothing_found, shown_text
    from aha.runs import RunDirectory

    opened, query = RunDirectory.open(run), SamplesQuery(step, grep, sort, ascending, n)
    found = browse(opened, query)
    for shown in found:
        typer.echo(shown_text(shown))
    if not found:
        typer.echo(nothing_found(opened, query))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run, a checkpoint, a folder or a hub name.")],
    folder: Annotated[Path, typer.Argument(help="Where to; must not hold anything yet.")],
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name or file, for a model without a run.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default as it is.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also to the hub, as a private model.")
    ] = None,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Also say how llama.cpp converts it.")
    ] = False,
) -> None:
    """Write MODEL to FOLDER as transformers and vLLM load it, with a model card."""
    from aha.trained.export import ExportRequest
    from aha.trained.export import export as run_export

    for line in run_export(ExportRequest(model, folder, recipe, dtype, push, gguf)):
        typer.echo(line)


app.add_typer(data_app, name="data")
app.add_typer(rewards_app, name="rewards")
app.add_typer(launch_app, name="launch")
app.command()(play)
app.command()(doctor)
app.command()(recipes)
app.command()(tasks)
app.command()(bench)


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
    # PyTorch's threads wait in loops for milliseconds, which starves them and every other program
    # once there are more threads than cores. Its OpenMP reads this when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    given = sys.argv[1:] if arguments is None else arguments
    if EXIT_CODE_FILE in os.environ:
        # The launcher hands signals on from the start; a run that is there takes them itself.
        for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
            if hasattr(signal, name):  # Windows has only the first two
                signal.signal(getattr(signal, name), _too_early)
    try:
        _refuse_empty(given)
        code = app(args=_with_resume_value(given), prog_name="aha", standalone_mode=False)
    except TyperException as error:
        sentence = " ".join(error.format_message().split()).replace("Value error, ", "")
        _stop(f"error: {sentence}", EXIT_USER_ERROR)
    except UserError as error:
        _stop(f"error: {error}", EXIT_USER_ERROR)
    except RunFailure as error:
        _stop(f"failed: {error}", EXIT_FAILED, error.of_one_process)
    except OSError as error:
        # Only a name that was given can be too long; other errors of the system are not a mistake.
        if error.errno != errno.ENAMETOOLONG:
            raise
        _stop(f"error: {error.filename!r} is too long for a file's name.", EXIT_USER_ERROR)
    except Stopped as stopped:
        _stop(str(stopped), stopped.code)
    except _TooEarly as early:
        _stop(str(early), early.code)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    # typer turns an interrupt into this code and hands it back.
    if code == EXIT_INTERRUPTED:
        _stop("interrupted; go on from the last checkpoint with --resume", EXIT_INTERRUPTED)
    if code:
        raise SystemExit(code)


def _refuse_empty(arguments: list[str]) -> None:
    """An empty option is a shell variable that was not set; as a path it would mean this folder.

    Errors: UserError, but for `--prompt`, which may be empty.
    """
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        unset = argument.startswith("--") and "=" not in argument and following == ""
        if (unset or re.fullmatch("--[a-z-]+=", argument)) and not argument.startswith("--prompt"):
            raise UserError(f"{argument.rstrip('=')} is empty; give it a value, or leave it out.")


def _with_resume_value(arguments: list[str]) -> list[str]:
    """Give a `--resume` that has no folder after it the value that means the latest run."""
    result: list[str] = []
    for index, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[index + 1 : index + 2]
        if argument == "--resume" and (not following or following[0].startswith("-")):
            from aha.runs import LATEST

            result.append(LATEST)
    return result


class _TooEarly(BaseException):
    """A signal before there was a run; loading code that goes on after any Exception does not."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} while nothing was training")
        self.code = 128 + number


def _too_early(number: int, frame: FrameType | None) -> None:
    raise _TooEarly(number)


def _stop(message: str, code: int, alone: bool = False) -> None:
    # Of the processes that a launcher started, one speaks for all; of what it meets `alone`, each.
    if alone or os.environ.get("RANK", "0") == "0":
        typer.echo(message, err=True)
    file = os.environ.get(EXIT_CODE_FILE)
    if file is None:
        raise SystemExit(code)
    # Told to `aha launch` on this node; the launcher between would make a traceback of any other
    # end, but must end the others where one fails alone.
    if alone or os.environ.get("LOCAL_RANK", "0") == "0":
        Path(file).write_text(str(code), encoding="utf-8")
    raise SystemExit(code if alone else 0)


if __name__ == "__main__":
    main()
