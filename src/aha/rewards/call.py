"""Calling a reward: a limit on its time, a check of its values, and the row that is at fault.

A reward may be anyone's code, so it may raise, hang or return anything; a run must name it.
"""

from __future__ import annotations

import math
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from aha.answers.tags import with_opened_thoughts
from aha.recipe import yaml_value
from aha.rewards import CustomReward, Reward, load_reward
from aha.tasks import task_of
from aha.types import RunFailure, UserError
from aha.visible import text_template

OnError = Literal["stop", "none"]


class TimeLimit(BaseException):
    """Time is up. No Exception, so that the code that hangs does not catch it by accident."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Errors: TimeLimit if the code inside takes longer.

    Python code is interrupted anywhere; a call into C only when it returns. There is no limit
    outside the main thread, where no signal arrives, and on Windows.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def up(number: int, frame: FrameType | None) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class RewardFault(Exception):
    """A reward raised, hung or returned a wrong value; the message is one sentence."""


def call(
    reward: Reward | CustomReward,
    columns: dict[str, Any],
    rows: int,
    on_error: OnError = "stop",
    timeout_s: float | None = None,
) -> list[float | None]:
    """A reward's values for a batch, checked; `columns` are all its arguments, a value a row.

    With `on_error` "stop" a fault is a RunFailure naming the reward, its row and the value; with
    "none" the rows at fault get no score.
    """
    try:
        return values_of(reward, columns, rows, timeout_s)
    except RewardFault as fault:
        # One row at a time, to find the row at fault: rewards are functions of their rows.
        limit = None if timeout_s is None else max(1.0, timeout_s / rows)
        values: list[float | None] = []
        for row in range(rows):
            single = {name: [column[row]] for name, column in columns.items()}
            try:
                values += values_of(reward, single, 1, limit)
            except RewardFault as own:
                if on_error == "stop":
                    text = str(columns["completions"][row])
                    raise RunFailure(f"{own} (row {row}, completion {text!r:.200})") from None
                values.append(None)
        if None not in values and on_error == "stop":
            raise RunFailure(f"{fault} (no single row does it)") from None
        return values


def values_of(
    reward: Reward | CustomReward, columns: dict[str, Any], rows: int, timeout_s: float | None
) -> list[float | None]:
    """One call of a reward: its values as floats. Errors: RewardFault with name and value."""
    name = reward.name
    try:
        with time_limit(timeout_s):
            returned: Any = reward(**columns)
    except TimeLimit:
        raise RewardFault(f"reward {name!r} did not return within {timeout_s:g} s") from None
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise RewardFault(
            f"reward {name!r} raised {type(error).__name__}: "
            f"{' '.join(str(error).split())} ({last.filename}, line {last.lineno})"
        ) from error
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, list | tuple):
        raise RewardFault(f"reward {name!r} returned {values!r:.80}; it must be a list of numbers.")
    if len(values) != rows:
        raise RewardFault(
            f"reward {name!r} returned {len(values)} values for {rows} completions; one each."
        )
    for row, value in enumerate(values):
        if value is not None and (not isinstance(value, Real) or not math.isfinite(value)):
            raise RewardFault(
                f"reward {name!r} returned {value!r:.80} for row {row}; "
                "allowed is a finite number or None."
            )
    return [None if value is None else float(value) for value in values]


def try_reward(
    name: str, completion_file: Path, columns: Sequence[str], options: Sequence[str], prompt: str
) -> str:
    """The score of the text in a file, its verdict and the reasons, for people who write rewards.

    `columns` and `options` are NAME=VALUE, values in YAML. Words count as tokens.
    Errors: UserError for an unreadable file, a malformed pair, or a reward that lacks a column.
    """
    try:
        text = completion_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        path = str(completion_file)
        raise UserError(f"--completion: {path!r} cannot be read: {error}.") from None
    row = dict(_pair("--column", item) for item in columns)
    reward = load_reward(name, **dict(_pair("--option", item) for item in options))
    tokens = list(range(len(text.split())))
    given: dict[str, Any] = {key: [value] for key, value in row.items()}
    given |= {"prompts": [prompt], "completions": [text], "completion_ids": [tokens]}
    try:
        (value,) = call(reward, given, 1)
    except RunFailure as error:
        raise UserError(str(error)) from None
    task = task_of(row)
    verdict = task.check(row, with_opened_thoughts(prompt, text))
    page = text_template("aha.rewards", "tried.txt.j2", repr=repr).render(
        name=name,
        value=value,
        verdict=verdict,
        tokens=len(tokens),
        gold=task.gold(row),
        why=task.why_wrong(verdict.answer, row),
        about=" ".join((reward.__doc__ or "").split()) if isinstance(reward, Reward) else "",
    )
    return page.removesuffix("\n")


def _pair(option: str, item: str) -> tuple[str, Any]:
    name, separator, value = item.partition("=")
    if not separator or not name:
        raise UserError(f"{option} {item!r}: write it as NAME=VALUE.")
    return name, yaml_value(value, f"{option} {item!r}")
