"""Sampled groups: written whole as a run goes, and browsed afterwards (`aha samples`)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.tasks import check_completions
from aha.types import Group, UserError
from aha.visible import visible

Order = Literal["step", "advantage", "reward", "length"]


class SamplesObserver:
    """Writes `samples_groups` groups every `samples_steps` steps, and prints them where asked.

    Of a skipped step it writes the groups to blame, or all.
    """

    def __init__(
        self, run: RunDirectory, settings: LoggingSection, say: Callable[[str], None]
    ) -> None:
        self._run = run
        self._settings = settings
        self._say = say
        self._kept = len(run.read_lines(run.samples_file.name))

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        step, chosen = record["step"], self._chosen(record["step"], groups)
        chosen += [group for group in _to_blame(record, groups) if group not in chosen]
        if not chosen:
            return
        self._kept += len(chosen)
        self._run.append_samples(sample_record(step, group) for group in chosen)
        text = "\n".join(sample_text(step, group) for group in chosen)
        (self._run.samples / f"step_{step:05d}.txt").write_text(text, encoding="utf-8")
        if self._settings.samples_print:
            self._say(visible(text))

    def note(self, message: str) -> None:
        """Samples hold no notes."""

    def close(self) -> None:
        """Every file is closed after its step."""

    def _chosen(self, step: int, groups: Sequence[Group]) -> list[Group]:
        settings = self._settings
        if step != 1 and step % settings.samples_steps:
            return []
        wanted = settings.samples_groups
        if settings.samples_limit is not None:
            wanted = min(wanted, max(0, settings.samples_limit - self._kept))
        eligible = (g for g in groups if not settings.samples_successful_only or _solved(g))
        return list(itertools.islice(eligible, wanted))


def _solved(group: Group) -> bool:
    """True if a completion is right, whatever the rewards say."""
    count = len(group.completions)
    verdicts = check_completions(
        [group.prompt.text] * count,
        [completion.text for completion in group.completions],
        [group.problem.columns] * count,
    )
    return any(verdict.strict for verdict in verdicts)


def _to_blame(record: dict[str, Any], groups: Sequence[Group]) -> list[Group]:
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
    """One group as text for people."""
    columns = ", ".join(f"{name}={value}" for name, value in group.problem.columns.items())
    lines = [f"step {step}  {columns}", f"prompt: {group.prompt.text}", ""]
    rows = zip(group.completions, group.scores, group.advantages, strict=True)
    for number, (completion, score, advantage) in enumerate(rows, start=1):
        ending = ", cut off" if completion.truncated else ""
        rewards = ", ".join(
            f"{name} none" if value is None else f"{name} {value:g} -> {score.weighted[name]:g}"
            for name, value in score.raw.items()
        )
        lines += [
            f"[{number}] reward {score.reward:.3f}  advantage {advantage:+.3f}  "
            f"({rewards}; {len(completion.token_ids)} tokens{ending})",
            completion.text,
            "",
        ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Shown:
    """One completion of samples.jsonl with the step and problem it belongs to."""

    step: int
    columns: Mapping[str, Any]
    prompt: str
    completion: Mapping[str, Any]


@dataclass(frozen=True)
class SamplesQuery:
    """The completions of a step, matching a pattern (case ignored), in an order, at most so many.

    The last step, or the largest value, comes first unless `ascending`.
    """

    step: int | None = None
    grep: str | None = None
    order: Order = "step"
    ascending: bool = False
    limit: int = 10


def browse(run: RunDirectory, query: SamplesQuery) -> list[Shown]:
    """The completions that the query asks for.

    Errors: UserError when the run has no samples, none of that step, or the pattern is not one.
    """
    try:
        pattern = re.compile(query.grep or "", re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--grep is {query.grep!r}, which is not a pattern: {error}.") from None
    found = [s for s in _kept(run, query.step) if pattern.search(s.completion["text"])]
    if query.order == "step":
        found = found if query.ascending else found[::-1]
    else:
        key = {"advantage": "advantage", "reward": "reward", "length": "tokens"}[query.order]
        known = [shown for shown in found if shown.completion[key] is not None]
        found = sorted(known, key=lambda s: s.completion[key], reverse=not query.ascending)
    return found[: query.limit]


def nothing_found(run: RunDirectory, query: SamplesQuery) -> str:
    """The sentence where `browse` finds none: among how many completions, and what they lack."""
    wanted = [] if query.grep is None else [f"matches --grep {query.grep!r}"]
    wanted += ["has a reward"] if query.order == "reward" else []
    return f"None of {len(_kept(run, query.step))} completions {' and '.join(wanted)}."


def shown_text(shown: Shown) -> str:
    """One completion as text for people; nothing in it can steer the terminal."""
    completion = shown.completion
    columns = ", ".join(f"{name}={value}" for name, value in shown.columns.items())
    parts = ", ".join(
        f"{name} {'none' if value is None else f'{value:g}'}"
        for name, value in completion["rewards"].items()
    )
    ending = ", cut off" if completion["truncated"] else ""
    reward = completion["reward"]
    return visible(
        f"step {shown.step}  {columns}\n"
        f"reward {'none' if reward is None else f'{reward:.3f}'}  "
        f"advantage {completion['advantage']:+.3f}  "
        f"({parts}; {completion['tokens']} tokens{ending})\n"
        f"{shown.prompt}{completion['text']}\n"
    )


def _kept(run: RunDirectory, step: int | None) -> list[Shown]:
    """Every completion that the run kept, or that it kept of one step."""
    records = run.read_lines(run.samples_file.name)
    if not records:
        raise UserError(f"{str(run.path)!r} has no samples; see logging.samples_steps.")
    if step is not None:
        steps = sorted({record["step"] for record in records})
        records = [record for record in records if record["step"] == step]
        if not records:
            listed = ", ".join(map(str, steps[:20]))
            more = f" and on to {steps[-1]}" if len(steps) > 20 else ""
            raise UserError(f"--step is {step}; samples are of steps {listed}{more}.")
    return [
        Shown(record["step"], record["columns"], record["prompt"], completion)
        for record in records
        for completion in record["completions"]
    ]
