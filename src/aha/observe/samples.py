"""Sampled groups, whole: text for people, JSON lines for programs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.tasks import check_completions
from aha.types import Group, Score
from aha.visible import visible


class SamplesObserver:
    """Every `samples_steps` steps writes `samples_groups` groups, and says them where asked."""

    def __init__(
        self, run: RunDirectory, settings: LoggingSection, say: Callable[[str], None]
    ) -> None:
        self._run = run
        self._settings = settings
        self._say = say
        self._kept = len(run.read_lines(run.samples_file.name))

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        step, chosen = record["step"], self._chosen(record["step"], groups)
        chosen += [group for group in _sick(record, groups) if group not in chosen]
        if not chosen:
            return
        self._kept += len(chosen)
        self._run.append_samples(sample_record(step, group) for group in chosen)
        text = "\n".join(sample_text(step, group) for group in chosen)
        (self._run.samples / f"step_{step:05d}.txt").write_text(text, encoding="utf-8")
        if self._settings.samples_print:
            self._say(visible(text))

    def _chosen(self, step: int, groups: Sequence[Group]) -> list[Group]:
        """The first groups that the settings want of this step."""
        settings = self._settings
        if step != 1 and step % settings.samples_steps:
            return []
        wanted = settings.samples_groups
        if settings.samples_limit is not None:
            wanted = min(wanted, max(0, settings.samples_limit - self._kept))
        eligible = (g for g in groups if not settings.samples_successful_only or _solved(g))
        return list(itertools.islice(eligible, wanted))

    def note(self, message: str) -> None:
        """Samples hold no notes."""

    def close(self) -> None:
        """Every file is closed after its step."""


def _solved(group: Group) -> bool:
    """Whether any completion is right, whatever the rewards say."""
    count = len(group.completions)
    verdicts = check_completions(
        [group.prompt.text] * count,
        [completion.text for completion in group.completions],
        [group.problem.columns] * count,
    )
    return any(verdict.strict for verdict in verdicts)


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
