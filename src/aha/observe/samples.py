"""Sampled groups, whole: text for people, JSON lines for programs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from aha.recipe import LoggingSection
from aha.runs import RunDirectory
from aha.types import Group, Score


class SamplesObserver:
    """Every `samples_steps` steps writes the first `samples_groups` groups."""

    def __init__(self, run: RunDirectory, settings: LoggingSection) -> None:
        self._run = run
        self._settings = settings

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        step = record["step"]
        due = step == 1 or step % self._settings.samples_steps == 0
        chosen = list(groups[: self._settings.samples_groups]) if due else []
        chosen += [group for group in _sick(record, groups) if group not in chosen]
        if not chosen:
            return
        self._run.append_samples(sample_record(step, group) for group in chosen)
        path = self._run.samples / f"step_{step:05d}.txt"
        path.write_text("\n".join(sample_text(step, group) for group in chosen), encoding="utf-8")

    def note(self, message: str) -> None:
        """Samples hold no notes."""

    def close(self) -> None:
        """Every file is closed after its step."""


def _sick(record: dict[str, Any], groups: Sequence[Group]) -> list[Group]:
    """Of a skipped step, the groups to blame; all when none is in particular."""
    if not record["skipped"]:
        return []
    rows = set(record["sick_rows"])
    firsts = itertools.accumulate((len(g.completions) for g in groups), initial=0)
    blamed = [
        group
        for group, first in zip(groups, firsts, strict=False)
        if rows & set(range(first, first + len(group.completions)))
    ]
    return blamed or list(groups)


def sample_record(step: int, group: Group) -> dict[str, Any]:
    """One group as a JSON object; `reward` and `advantage` are fields of their own."""
    return {
        "step": step,
        "key": group.problem.key,
        "columns": dict(group.problem.columns),
        "prompt": group.prompt.text,
        "completions": [
            {
                "text": completion.text,
                "tokens": len(completion.token_ids),
                "truncated": completion.truncated,
                "rewards": dict(score.raw),
                "weighted": dict(score.weighted),
                "reward": score.reward if score.weighted else None,
                "advantage": advantage,
            }
            for completion, score, advantage in zip(
                group.completions, group.scores, group.advantages, strict=True
            )
        ],
    }


def sample_text(step: int, group: Group) -> str:
    """One group as a person reads it."""
    columns = ", ".join(f"{name}={value}" for name, value in group.problem.columns.items())
    lines = [f"step {step}  {columns}", f"prompt: {group.prompt.text}", ""]
    rows = zip(group.completions, group.scores, group.advantages, strict=True)
    for number, (completion, score, advantage) in enumerate(rows, start=1):
        ending = ", cut off" if completion.truncated else ""
        lines += [
            f"[{number}] reward {score.reward:.3f}  advantage {advantage:+.3f}  "
            f"({_rewards(score)}; {len(completion.token_ids)} tokens{ending})",
            completion.text,
            "",
        ]
    return "\n".join(lines)


def _rewards(score: Score) -> str:
    return ", ".join(
        f"{name} none" if value is None else f"{name} {value:g} -> {score.weighted[name]:g}"
        for name, value in score.raw.items()
    )
