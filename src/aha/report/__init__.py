"""The report: one self-contained HTML page from run directories alone, and PNG figures. No torch.

`make_report` does `aha report`. It imports the pages late, as they need matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aha.runs import RunDirectory
from aha.types import UserError

_COMPARISON = Path("comparison.html")
_PORT = 8765


@dataclass(frozen=True)
class ReportRequest:
    """The arguments of `aha report`; None for an option that was not given."""

    runs: tuple[Path, ...]
    output: Path | None = None
    figure: Path | None = None
    figures: Path | None = None
    watch: bool = False
    port: int | None = None


def make_report(request: ReportRequest, say: Callable[[str], None]) -> None:
    """Write the page and the figures of a request, or serve the page until Ctrl-C.

    Errors: UserError for a path that is no run or options that do not go together.
    """
    runs = [RunDirectory.open(path) for path in request.runs]
    _check(request)
    if request.watch:
        from aha.report.watch import watch

        watch(runs[0], _PORT if request.port is None else request.port, say)
        return
    from aha.report.comparison import build_comparison, write_figure, write_figures
    from aha.report.pages import build_report

    if len(runs) == 1:
        say(f"report: {build_report(runs[0])}")
    else:
        output = request.output or _COMPARISON
        try:
            say(f"comparison: {build_comparison(runs, output)}")
        except OSError as error:
            raise UserError(f"--output: {str(output)!r} cannot be written: {error}.") from None
    if request.figure is not None:
        write_figure(runs[0], request.figure)
        say(f"figure: {request.figure}")
    if request.figures is not None:
        try:
            for path in write_figures(runs, request.figures):
                say(f"figure: {path}")
        except OSError as error:
            raise UserError(
                f"--figures: {str(request.figures)!r} cannot be written: {error}."
            ) from None


def _check(request: ReportRequest) -> None:
    several, figure = len(request.runs) > 1, request.figure
    if several and (request.watch or figure is not None):
        option = "--watch" if request.watch else "--figure"
        raise UserError(f"{option} takes one run, not {len(request.runs)}.")
    if request.output is not None and not several:
        raise UserError(
            "--output goes with several runs; the report of one is written into its folder."
        )
    if request.watch and (figure is not None or request.figures is not None):
        raise UserError("--watch serves the report and writes nothing; leave out the figures.")
    if request.port is not None and not request.watch:
        raise UserError(f"--port is {request.port}, but without --watch nothing is served.")
    if figure is not None and (figure.suffix != ".png" or not figure.parent.is_dir()):
        raise UserError(
            f"--figure is {str(figure)!r}; it must end in .png, in a folder that exists."
        )
