"""What a reward makes of one text, and why: for people who write or debug one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from aha.answers.tags import with_opened_thoughts
from aha.recipe import YAML_FAULTS
from aha.rewards import Reward, load_reward
from aha.rewards.score import call
from aha.tasks import task_of
from aha.types import RunFailure, UserError


def try_reward(
    name: str,
    completion_file: Path,
    columns: Sequence[str],
    options: Sequence[str],
    prompt: str,
) -> str:
    """The score of a file's text, and what was read in it.

    `columns` and `options` are NAME=VALUE, values in YAML. Tokens are counted as words here, for
    want of a tokenizer.
    Errors: UserError for an unreadable file, a malformed pair, or a reward that lacks a column.
    """
    text = _read(completion_file)
    row = dict(_pair("--column", item) for item in columns)
    reward = load_reward(name, **dict(_pair("--option", item) for item in options))
    words = text.split()
    given: dict[str, Any] = {key: [value] for key, value in row.items()}
    given |= {
        "prompts": [prompt],
        "completions": [text],
        "completion_ids": [list(range(len(words)))],
    }
    try:
        (value,) = call(reward, given, 1)
    except RunFailure as error:
        raise UserError(str(error)) from None
    shown = "none (does not apply)" if value is None else f"{value:g}"
    lines = [f"{name}: {shown}", *_reading(prompt, text, row)]
    if isinstance(reward, Reward):
        lines += ["", " ".join((reward.__doc__ or "").split())]
    return "\n".join(lines)


def _reading(prompt: str, text: str, row: dict[str, Any]) -> list[str]:
    task, whole = task_of(row), with_opened_thoughts(prompt, text)
    verdict = task.check(row, whole)
    lines = [
        f"layout: {'as asked' if verdict.well_formed else 'not as asked'}",
        f"answer: {'none found' if verdict.answer is None else repr(verdict.answer)}",
        f"tokens: {len(text.split())} (words)",
    ]
    if (gold := task.gold(row)) is not None:
        lines.append(f"gold: {gold!r}")
        if not verdict.known:
            lines.append("verdict: gold cannot be read")
        elif verdict.lenient:
            lines.append("verdict: right")
        else:
            lines.append(f"verdict: wrong, {task.why_wrong(verdict.answer, row)}")
    return lines


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--completion: {str(path)!r} cannot be read: {error}.") from None


def _pair(option: str, item: str) -> tuple[str, Any]:
    name, separator, value = item.partition("=")
    if not separator or not name:
        raise UserError(f"{option} {item!r}: write it as NAME=VALUE.")
    try:
        return name, yaml.safe_load(value)
    except YAML_FAULTS:
        raise UserError(f"{option} {item!r}: {value!r} is not a YAML value.") from None
