"""The HTML page: its templates, its security policy, and the sections of a run's report.

Every value that a template prints is escaped and has its invisible characters written out.
The Content-Security-Policy allows the page's own scripts by their hashes and nothing else, so
even markup that slipped through could neither run nor load.
Left out: a choice of sections. A section stands on the page when the run has the data for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from aha.expected import expected_of, window_of
from aha.reasoning.behaviours import BEHAVIOURS
from aha.reasoning.compare import Estimate
from aha.recipe import Recipe, RecipeChange, changes, dump_recipe
from aha.report.before_after import LABELS, behaviours, shares_chart, summary, tiles, words_chart
from aha.report.charts import chart_svg
from aha.report.curves import bin_size, constant, panels, phase_table
from aha.report.moments import LEAST, SAMPLED, SHOWN, case_study, marked, moments, preview
from aha.report.run_data import RunData, between, duration, load, write
from aha.runs import RunDirectory
from aha.visible import visible

EVERY_S = 5.0  # a watched page asks this often for newer figures


def build_report(run: RunDirectory) -> Path:
    """Write report.html into the run and return its path. Errors: as `render_report`."""
    run.report_file.write_text(render_report(run), encoding="utf-8")
    return run.report_file


def render_report(run: RunDirectory, version: str = "") -> str:
    """The report's HTML; `version` for a page that asks its server for a newer one.

    Errors: UserError when the run has no steps yet.
    """
    data = load(run)
    table = behaviours(data)
    shown, qualified = moments(data)
    sides = [("before", data.before), ("after", data.after)]
    phases, phase_rows = phase_table(data.metrics)
    expected = expected_of([*(recipe for _, recipe in data.earlier_recipes), data.recipe])
    template_values = {
        "data": data,
        "sentences": summary(data),
        "tiles": tiles(data),
        "evaluated": "before" in data.evaluation and "after" in data.evaluation,
        "window": window_of(len(data.metrics)),
        "bin": bin_size(len(data.metrics)),
        "constant": constant(data.metrics),
        "expected": expected,
        "compared": expected.compare(data.metrics) if expected else "",
        "headings": panels([(data.name, [data.metrics])], expected=expected),
        "phases": phases,
        "phase_rows": phase_rows,
        "behaviours": table,
        "shares": shares_chart(sides) if table else None,
        "phrases": words_chart(sides, data.rules) if table else None,
        "recorded": bool(data.numbers(f"reasoning/{BEHAVIOURS[0]}_rate")),
        "moments": shown,
        "qualified": qualified,
        "sampled": SAMPLED,
        "least": LEAST,
        "cut": SHOWN,
        "labels": [(name, LABELS[name]) for name in BEHAVIOURS],
        "case": case_study(data),
        "stretches": stretches(data),
    }
    return render("report.html.j2", template_values, version)


def stretches(data: RunData) -> list[tuple[int, int, Recipe, list[RecipeChange]]]:
    """(first step, last step, recipe, its changes) of each recipe that ran a step, in order."""
    parts: list[tuple[int, int, Recipe, list[RecipeChange]]] = []
    for last, recipe in [*data.earlier_recipes, (data.metrics[-1]["step"], data.recipe)]:
        first = parts[-1][1] + 1 if parts else 1
        if first <= last:
            parts.append((first, last, recipe, changes(parts[-1][2], recipe) if parts else []))
    return parts


def render(template: str, template_values: Mapping[str, Any], version: str = "") -> str:
    """The whole page as text that can be written as UTF-8; `version` as for `render_report`."""
    environment = _templates()
    scripts = [environment.get_template("script.js.j2").render()]
    if version:
        every_ms = round(EVERY_S * 1000)
        scripts.append(environment.get_template("live.js.j2").render(every_ms=every_ms))
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    connect = "; connect-src 'self'" if version else ""  # only a watched page asks its server
    return environment.get_template(template).render(
        **template_values,
        version=version,
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
        f"{connect}; base-uri 'none'; form-action 'none'",
        # Our own files: nothing of a run is in them.
        style=Markup(environment.get_template("style.css.j2").render()),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704
    )


@cache
def _templates() -> Environment:
    def finalize(value: Any) -> Any:
        """Plain text without invisible characters; markup has been through this already."""
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("aha.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=finalize,
    )
    environment.filters |= {
        "between": between, "duration": duration, "marked": marked, "median": median,
        "preview": preview, "sh": shlex.quote, "svg": chart_svg, "write": write,
        "yaml": dump_recipe, "json": partial(json.dumps, ensure_ascii=False),
        "interval": lambda ends: between(Estimate(ends[0], ends[0], ends[1], 0), "percent"),
    }  # fmt: skip
    return environment
