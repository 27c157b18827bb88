"""From run directories to one HTML file. The sections are made beside; here they are put together.

Left out: a choice of sections. A section stands on the page when the run has what it needs.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from aha.reasoning.behaviours import BEHAVIOURS
from aha.report import behaviours as behaviours_
from aha.report import curves as curves_
from aha.report import gallery as gallery_
from aha.report.behaviours import Behaviours
from aha.report.cases import case_study
from aha.report.cost import cost
from aha.report.data import RunData, load
from aha.report.drawn import Drawn, contents, curves_note, drawn_bars, drawn_headings
from aha.report.figures import write_figure
from aha.report.page import Live, render
from aha.report.phases import phase_table
from aha.report.reproduce import stretches
from aha.report.summary import summarise
from aha.report.text import SHOWN
from aha.report.words import run_words
from aha.runs import RunDirectory

__all__ = ["build_report", "render_report", "write_figure"]

_EVALUATION_ROWS = (
    ("accuracy, strict", "accuracy", "percent"),
    ("accuracy, lenient", "accuracy_lenient", "percent"),
    ("layout followed", "format_rate", "percent"),
    ("length, tokens", "mean_length", "number"),
    ("reflection phrases a completion", "reflection_rate", "number"),
    ("cut off at the limit", "truncated_rate", "percent"),
)


def build_report(run: RunDirectory) -> Path:
    """Write report.html into the run and return its path.

    Errors: UserError when the run has no steps yet.
    """
    run.report_file.write_text(render_report(run), encoding="utf-8")
    return run.report_file


def render_report(run: RunDirectory, live: Live | None = None) -> str:
    """The report's HTML; `live` for a page that asks its server for newer figures.

    Errors: UserError when the run has no steps yet.
    """
    data = load(run)
    words, case, moments = run_words(data), case_study(data), gallery_.gallery(data)
    found = behaviours_.behaviours(data)
    values = {
        "data": data,
        "summary": summarise(data),
        "evaluation_rows": _EVALUATION_ROWS,
        "curves_note": curves_note(len(data.metrics), several=False),
        "constant": curves_.constant(data.metrics),
        "headings": drawn_headings(curves_.panels([(data.name, [data.metrics])])),
        "phases": phase_table(data.metrics),
        "behaviours": found,
        "shares": _shares(found) if found is not None else None,
        "recorded": behaviours_.recorded(data.metrics),
        "phrases": drawn_bars(words) if words is not None else None,
        "moments": moments,
        "rule": gallery_.RULE,
        "least": gallery_.LEAST,
        "cut": SHOWN,
        "labels": [(name, behaviours_.label(name)) for name in BEHAVIOURS],
        "case": case,
        "cost": cost(data),
        "environment": environment_rows(data),
        "stretches": stretches(data),
        "contents": contents(
            ("alerts", "Alerts", bool(data.alerts)),
            ("evaluation", "Evaluation", data.evaluated),
            ("curves", "Curves", True),
            ("phases", "Phases", True),
            ("behaviours", "Behaviours", found is not None),
            ("moments", "Aha moments", bool(moments.moments)),
            ("case", "One problem", case is not None),
            ("cost", "Cost", True),
            ("reproduce", "Reproduce", True),
        ),
    }
    return render("report.html.j2", values, live)


def _shares(found: Behaviours) -> Drawn:
    sides = [("before", found.rows, False), ("after", found.rows, True)]
    return drawn_bars(behaviours_.shares_chart(sides))


def environment_rows(data: RunData) -> list[tuple[str, str]]:
    """(label, value) of what was recorded about the machine and the versions."""
    rows: list[tuple[str, str]] = []
    for key, value in data.environment.items():
        label = key.replace("_", " ")
        rows.append((label, _said(key, value)))
    return rows


def _said(key: str, value: Any) -> str:
    if key == "command" and isinstance(value, list):
        return shlex.join(str(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {said}" for name, said in value.items() if said is not None)
    if isinstance(value, str):
        return value
    return "not known" if value is None else json.dumps(value, ensure_ascii=False)
