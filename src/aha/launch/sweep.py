"""`aha sweep`: every combination of some settings over some seeds, and one table of them.

Each run is an `aha train` of its own, so it resumes by itself. The folder says which runs are done:
a sweep that was stopped, even killed, goes on with the same command. Left out: a search that
chooses the next setting. With a handful of seeds it would follow noise.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

import yaml
from scipy import stats

from aha.launch import SweepRequest, visible_gpus
from aha.launch.processes import end, handled
from aha.reasoning.compare import Estimate, student
from aha.recipe import load_recipe
from aha.report.charts import Chart, Series
from aha.report.pages import render
from aha.runs import RunDirectory, usable_cores, writable
from aha.types import RunFailure, Stopped, UserError

_POLL_S = 0.1
_DEFINITION, _CSV, _PAGE = "sweep.json", "sweep.csv", "sweep.html"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; `setting` is what varies, as `key=value, key=value`."""

    setting: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Row:
    """A finished run: a line of sweep.csv. Accuracies are none without an evaluation."""

    setting: str
    seed: int
    accuracy_before: float | None
    accuracy_after: float | None
    mean_length: float
    seconds: float


@dataclass(frozen=True)
class Summary:
    """A setting over its seeds. `difference`: of accuracy from the first setting, paired by seed.

    Intervals are Student's, over seeds. `p`: of the paired t-test.
    """

    setting: str
    seeds: int
    accuracy: Estimate | None
    mean_length: float
    seconds: float
    difference: Estimate | None = None
    p: float | None = None


def sweep(request: SweepRequest, say: Callable[[str], None]) -> None:
    """Run what is not done yet, then write the table.

    Errors: UserError before anything is written or started; RunFailure when a run fails, and
    Stopped by a signal, after the table of what is done.
    """
    folder = request.output or Path("sweeps") / Path(request.recipe).stem
    cells, jobs, name = plan(request, folder), jobs_of(request), Path(request.recipe).stem
    definition = {
        "recipe": request.recipe,
        "set": list(request.overrides or ()),
        "vary": list(request.vary or ()),
        "seeds": request.seeds,
    }
    with _locked(folder, definition):
        waiting = [cell for cell in cells if not finished(cell.folder)]
        say(f"{folder}: {len(cells)} runs, {len(cells) - len(waiting)} done; {jobs} at a time")
        try:
            failed = run_all(
                waiting, request.recipe, jobs, lambda: _write(folder, cells, name), say
            )
        finally:
            say(_write(folder, cells, name))
    if failed:
        raise RunFailure(
            f"{len(failed)} of {len(cells)} runs failed, the first with: {failed[0]} "
            "The same command tries them again."
        )


def plan(request: SweepRequest, folder: Path) -> list[Cell]:
    """All runs, setting by setting. Errors: UserError for a setting that no run could have."""
    axes = [_axis(text) for text in request.vary or ()]
    keys = [key for key, _ in axes]
    if not axes:
        raise UserError("aha sweep needs --vary KEY=V1,V2, such as grpo.loss_type=grpo,dapo.")
    if len(set(keys)) < len(keys):
        raise UserError(
            f"--vary names {max(keys, key=keys.count)} twice; give all its values once."
        )
    cells = []
    for number, values in enumerate(itertools.product(*(values for _, values in axes))):
        pairs = [f"{key}={_text(value)}" for key, value in zip(keys, values, strict=True)]
        short = re.sub(r"[^A-Za-z0-9.=_-]+", "-", "-".join(pairs))[:60].rstrip("-.")
        for seed in range(request.seeds):
            overrides = (*(request.overrides or ()), *pairs, f"train.seed={seed}")
            load_recipe(request.recipe, overrides)
            name = f"{number + 1:02d}-{short}-seed-{seed}"
            cells.append(Cell(", ".join(pairs), seed, overrides, folder / "runs" / name))
    return cells


def _axis(text: str) -> tuple[str, list[object]]:
    """A key and its values. Errors: UserError naming what is wrong with the text."""
    key, equals, listed = text.partition("=")
    key = key.strip()
    try:
        values = yaml.safe_load(f"[{listed}]")
    except yaml.YAMLError:
        values = []
    if not (key and equals and values):
        raise UserError(f"--vary is {text!r}; allowed is KEY=V1,V2, the values as YAML.")
    if key == "train.seed":
        raise UserError("--vary names train.seed; --seeds N is for that.")
    if len({_text(value) for value in values}) < len(values):
        raise UserError(f"--vary is {text!r}; a value stands there twice.")
    return key, values


def _text(value: object) -> str:
    """A value as `--set` takes it; a word stays as it is."""
    plain = isinstance(value, str) and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value)


def jobs_of(request: SweepRequest) -> int:
    """Runs at a time; more than there are GPUs share them. Errors: UserError for too few cores."""
    gpus, cores = visible_gpus() or 1, usable_cores()
    if request.jobs is None:
        return gpus
    if request.jobs > max(gpus, cores):
        raise UserError(f"--jobs is {request.jobs}; allowed are 1 to {cores}, the cores here.")
    return request.jobs


@contextmanager
def _locked(folder: Path, definition: dict[str, object]) -> Iterator[None]:
    """The folder, for one process. Errors: UserError if it is in use, or another sweep's."""
    file = folder / _DEFINITION
    if folder.exists() and not file.exists() and any(folder.iterdir()):
        raise UserError(f"--output: {str(folder)!r} is not empty and holds no sweep.")
    with writable(folder, "--output"):
        folder.mkdir(parents=True, exist_ok=True)
    with RunDirectory(folder).locked():
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            for name, value in definition.items():
                if found.get(name) != value:
                    raise UserError(
                        f"{str(folder)!r} holds a sweep whose {name} is {found.get(name)!r}, not "
                        f"{value!r}; go on with that, or take another --output."
                    )
        else:
            file.write_text(json.dumps(definition, indent=2) + "\n", encoding="utf-8")
        yield


def finished(folder: Path) -> bool:
    """True if the run took all its steps and, where it is asked to, was evaluated after them."""
    if not (folder / "recipe.yaml").exists():
        return False
    run = RunDirectory.open(folder)
    recipe = run.recipe()
    evaluated = recipe.evaluation.n == 0 or "after" in run.evaluation()
    return len(run.metrics()) >= recipe.train.max_steps and evaluated


def run_all(
    waiting: Sequence[Cell],
    recipe: str,
    jobs: int,
    done: Callable[[], object],
    say: Callable[[str], None],
) -> list[str]:
    """Run the cells, some at a time; what failed ones said last. Errors: Stopped by a signal."""
    received: list[int] = []
    running: dict[int, tuple[subprocess.Popen[bytes], Cell, Path]] = {}
    left, failed = list(waiting), list[str]()
    with handled(lambda number, _: received.append(number)):
        try:
            while (left or running) and not received:
                for place in range(jobs):
                    if place not in running and left:
                        running[place] = _start(left.pop(0), recipe, place, jobs)
                        say(f"started {running[place][1].folder.name}")
                for place, (process, cell, log) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[place]
                    if process.returncode:
                        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                        failed.append(f"{cell.folder.name}: {lines[-1] if lines else 'nothing'}")
                        say(f"failed {failed[-1]}; all it said is in {log}")
                    done()
                time.sleep(_POLL_S)
        finally:
            # They save, and the same command goes on with them.
            for process, _, _ in running.values():
                end(process)
    if received:
        raise Stopped("stopped; the same command goes on", 128 + received[0])
    return failed


def _start(
    cell: Cell, recipe: str, place: int, jobs: int
) -> tuple[subprocess.Popen[bytes], Cell, Path]:
    """Start a run, or go on with one, with its share of the machine."""
    log = cell.folder.parent.parent / "logs" / f"{cell.folder.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    if (cell.folder / "recipe.yaml").exists():
        arguments = ["--resume", str(cell.folder)]
    else:
        arguments = [recipe, "--output", str(cell.folder)]
        arguments += [word for override in cell.overrides for word in ("--set", override)]
    environment = dict(os.environ)
    if gpus := visible_gpus():
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = [name for name in given.split(",") if name] or [str(n) for n in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    with log.open("ab") as file:
        # In its own session: Ctrl-C reaches the sweep alone, which then ends its runs in order.
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "aha.cli.main", "train", *arguments],
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
    return process, cell, log


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """The finished runs, each once."""
    rows = []
    for cell in cells:
        if not finished(cell.folder):
            continue
        run = RunDirectory.open(cell.folder)
        metrics, evaluation = run.metrics(), run.evaluation()
        before, after = evaluation.get("before", {}), evaluation.get("after", {})
        length = after.get("mean_length", metrics[-1]["completions/mean_length"])
        seconds = sum(record["time/step_s"] for record in metrics)
        found = before.get("accuracy"), after.get("accuracy")
        rows.append(Row(cell.setting, cell.seed, *found, round(length, 2), round(seconds, 2)))
    return rows


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """The rows by setting, in their order; each against the first one."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    by_setting = {s: [row for row in rows if row.setting == s] for s in settings}
    first = {row.seed: row.accuracy_after for row in by_setting[settings[0]]} if settings else {}
    found = []
    for setting, members in by_setting.items():
        known = [row.accuracy_after for row in members if row.accuracy_after is not None]
        pairs = [
            (row.accuracy_after, first[row.seed])
            for row in members
            if row.accuracy_after is not None and first.get(row.seed) is not None
        ]
        differences = [one - two for one, two in pairs if two is not None]
        compared = setting != settings[0] and bool(differences)
        p = None
        if compared and len(set(differences)) > 1:
            p = float(stats.ttest_1samp(differences, 0.0).pvalue)
        found.append(
            Summary(
                setting,
                len(members),
                student(known) if known else None,
                fmean(row.mean_length for row in members),
                fmean(row.seconds for row in members),
                student(differences) if compared else None,
                p,
            )
        )
    return found


def _write(folder: Path, cells: Sequence[Cell], name: str) -> str:
    """Write sweep.csv and sweep.html; the table as text."""
    rows = rows_of(cells)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    found = summaries(rows)
    page = render("sweep.html.j2", {
        "name": name, "rows": rows, "summaries": found, "planned": len(cells),
        "charts": _charts(found),
    })  # fmt: skip
    for file, content in ((_CSV, text.getvalue()), (_PAGE, page)):
        made = folder / f".{file}"
        made.write_text(content, encoding="utf-8")
        made.replace(folder / file)
    lines = [f"{len(rows)} of {len(cells)} runs are done; the table: {folder / _PAGE}"]
    for one in found:
        lines.append(f"  {one.setting}: {_sentence(one)}")
    return "\n".join(lines)


def _sentence(one: Summary) -> str:
    seeds = f"{one.seeds} seed{'s' if one.seeds > 1 else ''}"
    cost = f"{one.mean_length:.0f} tokens, {one.seconds:.0f} s ({seeds})"
    if one.accuracy is None:
        return cost
    text = f"{one.accuracy.value:.1%}{_between(one.accuracy)}, {cost}"
    if one.difference is not None:
        text += f"; {100 * one.difference.value:+.1f} points from the first"
        text += f"{_between(one.difference)}" + ("" if one.p is None else f", p = {one.p:.2g}")
    return text


def _between(found: Estimate) -> str:
    return "" if found.n < 2 else f" ({found.low:.1%} to {found.high:.1%})"


def _charts(found: Sequence[Summary]) -> list[Chart]:
    """Accuracy against tokens and against seconds, a point for each setting."""
    known = [(one, one.accuracy) for one in found if one.accuracy is not None]
    if not known:
        return []
    charts = []
    for title, across in (("Accuracy and tokens", "tokens a completion"),
                          ("Accuracy and time", "seconds of training")):  # fmt: skip
        series = tuple(
            Series(one.setting, (accuracy.value,),
                   (one.mean_length if "token" in across else one.seconds,))
            for one, accuracy in known
        )  # fmt: skip
        charts.append(Chart(title, "percent", series, across=across))
    return charts
