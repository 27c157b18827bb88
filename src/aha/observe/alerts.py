"""What a run's watcher has to say: troubles with advice, and changes of trend with figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aha.observe.health import Health
from aha.observe.trends import Alert, Trends
from aha.sections import LoggingSection


class Watch:
    """Takes a run's records in order; what happened before a resumption is not told again."""

    def __init__(self, settings: LoggingSection, past: Iterable[Mapping[str, Any]] = ()) -> None:
        self._health = Health()
        self._trends = Trends(settings.alerts_window) if settings.alerts_window else None
        for record in past:
            self.check(record)

    def check(self, record: Mapping[str, Any]) -> list[Alert]:
        """The alerts of this step, each trouble and each change once."""
        alerts = [
            Alert(record["step"], "warning", name, sentence)
            for name, sentence in self._health.check(record)
        ]
        return alerts + (self._trends.check(record) if self._trends else [])
