"""The report: one self-contained HTML page from run directories alone, and PNG figures. No torch.

`make_report` does `aha report`. It imports the pages late, as they need matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aha.runs import RunDirectory, writable
from aha.types import UserError

_COMPARISON = Path("comparison.html")
_PORT = 8765


def make_report(
    paths: Sequence[Path],
    say: Callable[[str], None],
    *,
    output: Path | None = None,
    figure: Path | None = None,
    figures: Path | None = None,
    watch: bool = False,
    port: int | None = None,
) -> None:
    """Write the page and the figures of runs, or serve the page of one until Ctrl-C.

    The keywords are the options of `aha report`. `say` gets a line for each file that was written.
    Errors: UserError for a path that is no run or options that do not go together.
    """
    runs = [RunDirectory.open(path) for path in paths]
    if len(runs) > 1 and (watch or figure is not None):
        option = "--watch" if watch else "--figure"
        raise UserError(f"{option} takes one run, not {len(runs)}.")
    if output is not None and len(runs) == 1:
        raise UserError(
            "--output goes with several runs; the report of one is written into its folder."
        )
    if watch and (figure is not None or figures is not None):
        raise UserError("--watch serves the report and writes nothing; leave out the figures.")
    if port is not None and not watch:
        raise UserError(f"--port is {port}, but without --watch nothing is served.")
    if figure is not None and (figure.suffix != ".png" or not figure.parent.is_dir()):
        raise UserError(
            f"--figure is {str(figure)!r}; it must end in .png, in a folder that exists."
        )

    if watch:
        from aha.report.watch import watch as serve

        serve(runs[0], _PORT if port is None else port, say)
        return
    from aha.report.comparison import render_comparison, write_figure, write_figures
    from aha.report.pages import build_report

    if len(runs) == 1:
        say(f"report: {build_report(runs[0])}")
    else:
        page, output = render_comparison(runs), output or _COMPARISON
        with writable(output):
            output.write_text(page, encoding="utf-8")
        say(f"comparison: {output}")
    if figure is not None:
        write_figure(runs[0], figure)
        say(f"figure: {figure}")
    if figures is not None:
        with writable(figures, "--figures"):
            written = write_figures(runs, figures)
        for path in written:
            say(f"figure: {path}")
