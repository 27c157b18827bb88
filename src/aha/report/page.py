"""The page around a report: templates, and a policy under which nothing is fetched.

Every value that a template prints is escaped and has its invisible characters written out.
The Content-Security-Policy allows the page's own scripts by their hashes and nothing else, so
even markup that slipped through could neither run nor load.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from aha.reasoning.compare import Estimate
from aha.report.numbers import between, number, percent, write
from aha.visible import visible


@dataclass(frozen=True)
class Live:
    """A page that is being watched: the version it shows, and how often it asks for a newer."""

    version: str
    every_ms: int


def render(template: str, values: Mapping[str, Any], live: Live | None = None) -> str:
    """The whole page as text; `values` are the template's. It can be written as UTF-8."""
    environment = _environment()
    scripts = [environment.get_template("script.js.j2").render()]
    if live is not None:
        scripts.append(environment.get_template("live.js.j2").render(every_ms=live.every_ms))
    return environment.get_template(template).render(
        **values,
        version=live.version if live is not None else "",
        policy=policy(scripts, live is not None),
        # Our own files: nothing of a run is in them.
        style=Markup(environment.get_template("style.css.j2").render()),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704
    )


def policy(scripts: list[str], live: bool) -> str:
    """The Content-Security-Policy of a page with these scripts; a live page may ask its server."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    connect = "; connect-src 'self'" if live else ""
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
        f"{connect}; base-uri 'none'; form-action 'none'"
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("aha.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=_finalize,
    )
    environment.filters.update(
        between=between,
        interval=_interval,
        number=number,
        percent=percent,
        write=write,
        without_kind=_without_kind,
    )
    return environment


def _finalize(value: Any) -> Any:
    """Plain text without invisible characters; markup has been through this already."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _without_kind(message: str, kind: str) -> str:
    return message.removeprefix(f"{kind}: ")


def _interval(ends: list[float]) -> str:
    return between(Estimate(ends[0], ends[0], ends[1], 0), "percent")
