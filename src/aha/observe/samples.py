"""Sampled groups: written whole as a run goes, and browsed afterwards (`aha samples`)."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from aha.observe import Observer
from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.tasks import check_completion
from aha.types import Group, UserError
from aha.visible import text_template, visible

Order = Literal["step", "advantage", "reward", "length"]


class SamplesObserver(Observer):
    """Writes `samples_groups` groups every `samples_steps` steps, and prints them where asked.

    For a skipped step it writes the groups to blame, or all.
    """

    def __init__(
        self, run: RunDirectory, settings: LoggingSection, say: Callable[[str], None]
    ) -> None:
        self._run = run
        self._settings = settings
        self._say = say
        self._kept = len(run.read_lines(run.samples_file.name))

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        step, settings, chosen = record["step"], self._settings, list[Group]()
        if step == 1 or step % settings.samples_steps == 0:
            wanted = settings.samples_groups
            if settings.samples_limit is not None:
                wanted = min(wanted, max(0, settings.samples_limit - self._kept))
            eligible = (g for g in groups if not settings.samples_successful_only or _solved(g))
            chosen = list(itertools.islice(eligible, wanted))
        if record["skipped"]:
            size = len(groups[0].completions)
            places = sorted({row // size for row in record["sick_rows"]}) or range(len(groups))
            chosen += [groups[place] for place in places if groups[place] not in chosen]
        if not chosen:
            return
        self._kept += len(chosen)
        records = [sample_record(step, group) for group in chosen]
        self._run.append_samples(records)
        text = "\n".join(map(sample_text, records))
        (self._run.samples / f"step_{step:05d}.txt").write_text(text, encoding="utf-8")
        if settings.samples_print:
            self._say(visible(text))


def _solved(group: Group) -> bool:
    """True if a completion is right, whatever the rewards say."""
    prompt, columns = group.prompt, group.problem.columns
    return any(
        check_completion(prompt.text, completion.text, columns, prompt.layout).strict
        for completion in group.completions
    )


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


@functools.cache
def _words() -> Any:
    return text_template("aha.observe", "samples.txt.j2").module


def sample_text(record: Mapping[str, Any]) -> str:
    """One group of `sample_record` as text for people."""
    return str(_words().group(record))


def shown_text(shown: Mapping[str, Any]) -> str:
    """One completion of `browse` as text for people; nothing in it can steer the terminal."""
    return visible(str(_words().completion(shown)))


def browse(
    run: RunDirectory,
    step: int | None = None,
    grep: str | None = None,
    order: Order = "step",
    ascending: bool = False,
    limit: int = 10,
) -> list[dict[str, Any]]:
    """The completions of a step, matching a pattern (case ignored), in an order, at most so many.

    Each is the completion's object in samples.jsonl with its group's `step`, `columns` and
    `prompt`. The last step, or the largest value, comes first unless `ascending`.
    Errors: UserError when the run has no samples, none of that step, or the pattern is not one.
    """
    try:
        pattern = re.compile(grep or "", re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--grep is {grep!r}, which is not a pattern: {error}.") from None
    found = [shown for shown in _kept(run, step) if pattern.search(shown["text"])]
    if order == "step":
        found = found if ascending else found[::-1]
    else:
        key = "tokens" if order == "length" else order
        known = [shown for shown in found if shown[key] is not None]
        found = sorted(known, key=lambda shown: shown[key], reverse=not ascending)
    return found[:limit]


def nothing_found(run: RunDirectory, step: int | None, grep: str | None, order: Order) -> str:
    """The sentence where `browse` finds none: among how many completions, and what they lack."""
    wanted = [] if grep is None else [f"matches --grep {grep!r}"]
    wanted += ["has a reward"] if order == "reward" else []
    return f"None of {len(_kept(run, step))} completions {' and '.join(wanted)}."


def _kept(run: RunDirectory, step: int | None) -> list[dict[str, Any]]:
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
        {**completion, **{key: record[key] for key in ("step", "columns", "prompt")}}
        for record in records
        for completion in record["completions"]
    ]
