"""The `aha` command. A command's module is imported when the command runs, never before."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

import typer
from typer.exceptions import TyperException

from aha import __version__
from aha.cli.launch_commands import launch_app
from aha.cli.run_commands import eval_, export, play, report, samples, sweep, train
from aha.cli.show_commands import bench, data_app, doctor, recipes, rewards_app, tasks
from aha.launch import EXIT_CODE_FILE
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

app.command()(train)
app.command("sweep")(sweep)
app.command("eval")(eval_)
for command in (report, samples, export, play, doctor, recipes, tasks, bench):
    app.command()(command)
app.add_typer(data_app, name="data")
app.add_typer(rewards_app, name="rewards")
app.add_typer(launch_app, name="launch")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and stop."),
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
        # The launcher passes signals on from the start; a run replaces this handler by its own.
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
        # Only a name that the user gave can be too long; other system errors are not a mistake.
        if error.errno != errno.ENAMETOOLONG:
            raise
        _stop(f"error: {error.filename!r} is too long for a file's name.", EXIT_USER_ERROR)
    except (Stopped, _TooEarly) as stopped:
        _stop(str(stopped), stopped.code)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    # typer turns an interrupt into this code and hands it back.
    if code == EXIT_INTERRUPTED:
        _stop("interrupted; go on from the last checkpoint with --resume", EXIT_INTERRUPTED)
    if code:
        raise SystemExit(code)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse an empty option: a shell variable was not set, and as a path it means this folder.

    Errors: UserError, except for `--prompt`, which may be empty.
    """
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        unset = argument.startswith("--") and "=" not in argument and following == ""
        if (unset or re.fullmatch("--[a-z-]+=", argument)) and not argument.startswith("--prompt"):
            raise UserError(f"{argument.rstrip('=')} is empty; give it a value, or leave it out.")


def _with_resume_value(arguments: list[str]) -> list[str]:
    """Add the value that means the latest run after a `--resume` without a folder."""
    result: list[str] = []
    for index, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[index + 1 : index + 2]
        if argument == "--resume" and (not following or following[0].startswith("-")):
            from aha.runs import LATEST

            result.append(LATEST)
    return result


class _TooEarly(BaseException):
    """A signal before the run began. A BaseException, because loaders catch every Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} while nothing was training")
        self.code = 128 + number


def _too_early(number: int, frame: FrameType | None) -> None:
    raise _TooEarly(number)


def _stop(message: str, code: int, alone: bool = False) -> None:
    # Rank 0 prints. A failure of one process `alone` is printed by that process.
    if alone or os.environ.get("RANK", "0") == "0":
        typer.echo(message, err=True)
    file = os.environ.get(EXIT_CODE_FILE)
    if file is None:
        raise SystemExit(code)
    # `aha launch` on this node reads the code from the file. accelerate, between the two, prints a
    # traceback for any code but 0; it must see the failure of one process, to end the others.
    if alone or os.environ.get("LOCAL_RANK", "0") == "0":
        Path(file).write_text(str(code), encoding="utf-8")
    raise SystemExit(code if alone else 0)


if __name__ == "__main__":
    main()
