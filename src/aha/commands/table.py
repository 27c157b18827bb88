"""Evaluations as a table of text, a column a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aha.evaluate.paired import Comparison

Summary = Mapping[str, Any]
_SHOWN_KEYS = 5


def table(columns: Sequence[tuple[str, Summary]]) -> list[str]:
    """The figures, aligned; which accuracy is strict and which lenient is said in each line."""
    rows = [("", [name for name, _ in columns])]
    summaries = [summary for _, summary in columns]
    rows += [(label, [say(s) for s in summaries]) for label, say in _FIGURES]
    for key in [k for k in summaries[0] if k.startswith(("pass@", "maj@"))]:
        rows.append((f"{key} (strict)", [f"{s[key]:.1%}" for s in summaries]))
    for part in summaries[0]["by_difficulty"]:
        rows.append((f"  {part} (strict)", [_part(s["by_difficulty"][part]) for s in summaries]))
    widths = [max(len(row[0]) for row in rows)]
    widths += [max(len(row[1][i]) for row in rows) for i in range(len(columns))]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def comparison_lines(found: Comparison) -> list[str]:
    """What the first gains on the second, and whether it may be chance."""
    low, high = found.ci95
    return [
        f"difference {found.difference:+.1%} (95 % interval {low:+.1%} to {high:+.1%}; "
        f"{found.test}: p = {found.p:.2g})",
        f"better on {len(found.gained)} problems, worse on {len(found.lost)}, "
        f"the same on {found.n - len(found.gained) - len(found.lost)}",
        *_keys("gained", found.gained),
        *_keys("lost", found.lost),
    ]


def _keys(what: str, keys: Sequence[str]) -> list[str]:
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return [f"{what}: {', '.join(keys[:_SHOWN_KEYS])}{more}"] if keys else []


def _cells(row: tuple[str, Sequence[str]], widths: Sequence[int]) -> list[str]:
    label, cells = row
    return [label.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))]


def _accuracy(summary: Summary) -> str:
    low, high = summary["ci95"]
    return f"{summary['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def _counts(summary: Summary) -> str:
    return f"{summary['n']} x {summary['samples']}, {summary['temperature']:g}"


def _part(part: Summary) -> str:
    return f"{_accuracy(part)}, n = {part['n']}"


def _lengths(summary: Summary) -> str:
    tens, half, most = (summary[f"length_p{p}"] for p in (10, 50, 90))
    return f"{summary['mean_length']:.0f} ({tens}, {half}, {most})"


_FIGURES: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("problems x completions, temperature", _counts),
    ("accuracy, strict: right and in the asked layout", _accuracy),
    ("accuracy, lenient: last answer right", lambda s: f"{s['accuracy_lenient']:.1%}"),
    ("format followed", lambda s: f"{s['format_rate']:.1%}"),
    ("mean length, tokens (10th, 50th, 90th percentile)", _lengths),
    ("cut off at the limit", lambda s: f"{s['truncated_rate']:.1%}"),
    ("reflection phrases a completion", lambda s: f"{s['reflection_rate']:.2f}"),
)  # fmt: skip
