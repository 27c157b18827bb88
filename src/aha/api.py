"""The Python API: what the command line does, from a program or a notebook.

import aha
run = aha.train("countdown-tiny", max_steps=50, rewards=[my_function, "format"])
run.metrics(); run.plot()
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aha.observe import Observer
from aha.recipe import DEFAULT_RECIPE, Recipe, load_recipe, named_overrides, with_overrides
from aha.rewards.reward import FROM_PYTHON, CustomReward
from aha.runs import RunDirectory, found_run, write_lines
from aha.types import Group, Stopped, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from aha.trained.held_out import EvalResult

_CURVES = ("reward", "accuracy", "completions/mean_length", "reflection_rate")


class Run:
    """A run directory, read when it is asked."""

    def __init__(self, path: Path) -> None:
        self._run = RunDirectory.open(path)
        self.path = path

    @property
    def recipe(self) -> Recipe:
        return self._run.recipe()

    def metrics(self) -> DataFrame:
        """A row for each step, with the keys of metrics.jsonl as columns."""
        from pandas import DataFrame

        return DataFrame(self._run.metrics())

    def evaluation(self) -> dict[str, Any]:
        """The figures before and after training, as far as the run was evaluated."""
        return self._run.evaluation()

    def samples(self, step: int | None = None, n: int = 10) -> DataFrame:
        """The last completions that were kept, or those of a step, with reward and advantage."""
        from pandas import DataFrame

        from aha.observe.samples import browse

        return DataFrame(browse(self._run, step, limit=n))

    def plot(self, *keys: str) -> Figure:
        """Curves over the steps; by default reward, accuracy, length and reflection.

        Errors: UserError for a key that no step has.
        """
        from aha.report.charts import Chart, charts_figure
        from aha.report.curves import panels, series_of

        metrics = self._run.metrics()
        found = [chart for _, charts in panels([("", [metrics])], _CURVES) for chart in charts]
        if keys:
            curves = [(key, series_of("", [metrics], key)) for key in keys]
            for key, curve in curves:
                if curve is None:
                    raise UserError(f"plot: no step has a number {key!r}; see run.metrics().")
            found = [Chart(key, "number", (curve,)) for key, curve in curves if curve is not None]
        elif not found:
            raise UserError(f"plot: {', '.join(_CURVES)} did not change over the run's steps.")
        return charts_figure(found)

    def report(self) -> Path:
        """Write report.html and return its path."""
        from aha.report.pages import build_report

        return build_report(self._run)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        rows = [
            f"<tr><th>{html.escape(side)}</th><td>{one['accuracy']:.1%}</td>"
            f"<td>{one['mean_length']:.0f}</td><td>{one['n']}</td></tr>"
            for side, one in self.evaluation().items()
        ]
        head = "<tr><th></th><th>accuracy</th><th>tokens</th><th>problems</th></tr>"
        table = f"<table>{head}{''.join(rows)}</table>" if rows else ""
        return f"<p><code>{html.escape(repr(self))}</code></p>{table}"

    def __repr__(self) -> str:
        steps, most = len(self._run.metrics()), self.recipe.train.max_steps
        return f"Run({str(self.path)!r}, {steps} of {most} steps)"


def train(
    recipe: str | Recipe | None = None,
    *,
    rewards: Sequence[Any] | None = None,
    data: Any = None,
    test_data: Any = None,
    callbacks: Sequence[Observer | Callable[[dict[str, Any]], object]] = (),
    overrides: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    **short: Any,
) -> Run:
    """Train, and return the run; as `aha train`.

    `recipe`: a name, a YAML file or a Recipe; default countdown-tiny. `short`: model, task,
    max_steps, learning_rate, seed, engine, lora, report_to. `overrides`: any other key by its
    dotted name. `rewards`: names, functions with TRL's signature, dicts as in a recipe, or (one of
    these, weight). `data`: a list of dicts, a pandas DataFrame or a `datasets.Dataset` with columns
    `problem` and `answer`; without `test_data` a part of it is held out. `callbacks`: observers, or
    functions of a step's record. `resume`: a run to go on with; functions must be given again.

    An interrupt (the stop button of a notebook) saves after the step and returns the run.
    Errors: UserError for a mistake; RunFailure when the run cannot go on.
    """
    from aha.train.start import resume_run, start_run

    if resume is not None and not (recipe is output is data is test_data is None):
        raise UserError(
            "resume goes on with a run's own recipe and data in its own folder; it takes no "
            "recipe, data, test_data or output."
        )
    functions: dict[str, CustomReward] = {}
    changes = named_overrides(**short)
    changes += _overrides(overrides or {})
    if rewards is not None:
        changes.append(f"rewards={json.dumps([_section(one, functions) for one in rewards])}")
    for key, rows in (("source", data), ("test_source", test_data)):
        if rows is not None:
            changes += ['task.name="custom"', f"task.{key}={json.dumps(str(_written(rows)))}"]
    observers = [one if isinstance(one, Observer) else _Called(one) for one in callbacks]
    if resume is not None:
        path = found_run(str(resume))
        # A run keeps its rewards; their functions are given again.
        changes = [change for change in changes if not change.startswith("rewards=")]
        begun = partial(resume_run, path, changes)
    else:
        one = _changed(recipe or DEFAULT_RECIPE, changes)
        if one.engine != "native":
            raise UserError(f"engine is {one.engine!r}; aha.train takes 'native'. Use aha train.")
        path = RunDirectory.new_path(one) if output is None else Path(output)
        begun = partial(start_run, one, path)
    try:
        begun(functions=functions, observers=observers)
    except Stopped as stopped:
        print(stopped)
    return Run(path)


def load_run(path: str | Path) -> Run:
    """A run by its folder, or by its name under runs/. Errors: UserError if there is none."""
    return Run(found_run(str(path)))


def evaluate(model: str | Path, **options: Any) -> EvalResult:
    """Accuracy on held-out problems; `options` are those of `aha eval`, such as against and n.

    Errors: UserError naming what is wrong.
    """
    from dataclasses import fields

    from aha.evaluate import EvalRequest
    from aha.trained.held_out import run_eval

    known = {field.name for field in fields(EvalRequest)} - {"model", "json"}
    for name in options:
        if name not in known:
            raise UserError(
                f"evaluate: {name!r} is unknown; allowed are {', '.join(sorted(known))}."
            )
    changes = options.pop("overrides", None)
    if isinstance(changes, Mapping):
        changes = _overrides(changes)
    return run_eval(EvalRequest(str(model), overrides=changes, **options))


class Training:
    """A run by hand, without a folder: nothing is saved. `state` is what a step needs."""

    def __init__(self, recipe: str | Recipe = DEFAULT_RECIPE, **overrides: Any) -> None:
        from aha.train.state import prepare

        self.recipe = _changed(recipe, _overrides(overrides))
        self.state = prepare(self.recipe, None)
        self.steps = 0

    def step(self) -> dict[str, Any]:
        """Take the next step and return its record."""
        from aha.observe.record import step_record
        from aha.train.loop import train_step

        self.steps += 1
        return step_record(train_step(self.state, self.steps))


def prepare(recipe: str | Recipe = DEFAULT_RECIPE, **overrides: Any) -> Training:
    """Everything that steps need, for a loop of your own: `aha.prepare(name, **{"train.seed": 1})`.

    Errors: UserError.
    """
    return Training(recipe, **overrides)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _changed(recipe: str | Recipe, changes: Sequence[str]) -> Recipe:
    if isinstance(recipe, str):
        return load_recipe(recipe, changes)
    return with_overrides(recipe, changes)


class _Called(Observer):
    def __init__(self, function: Callable[[dict[str, Any]], object]) -> None:
        self._function = function

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        self._function(record)


def _section(one: Any, functions: dict[str, CustomReward]) -> dict[str, Any]:
    """A reward as a recipe has it; a function is kept under its name. Errors: UserError."""
    if isinstance(one, tuple):
        inner, weight = one
        return {**_section(inner, functions), "weight": weight}
    if isinstance(one, str):
        return {"name": one}
    if isinstance(one, Mapping):
        return dict(one)
    if not callable(one):
        raise UserError(
            f"rewards holds {one!r}; allowed are a name, a function, a dict, or a pair of one of "
            "these and its weight."
        )
    plain = re.sub(r"\W+", "", getattr(one, "__name__", type(one).__name__)) or "function"
    name, number = f"{FROM_PYTHON}:{plain}", 1
    while name in functions:
        number += 1
        name = f"{FROM_PYTHON}:{plain}_{number}"
    functions[name] = CustomReward(name.partition(":")[2], one, {})
    return {"name": name}


def _written(rows: Any) -> Path:
    """The rows as a file under runs/data, named by their content. Errors: UserError."""
    records: Iterable[Any] = rows
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        records = rows.to_dict("records")
    listed = list(records)
    if not listed or not all(isinstance(row, Mapping) for row in listed):
        raise UserError(
            "data must hold rows as dicts: a list of dicts, a pandas DataFrame, or a Dataset of "
            "the package datasets."
        )
    try:
        text = "\n".join(json.dumps(dict(row), sort_keys=True) for row in listed)
    except TypeError as error:
        raise UserError(f"data has a value that JSON cannot hold: {error}.") from None
    path = Path("runs") / "data" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, listed)
    return path.resolve()
