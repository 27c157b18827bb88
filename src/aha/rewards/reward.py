"""Rewards: the base of the shipped ones, and functions that someone else wrote.

`reward(prompts=..., completions=..., **columns)` returns one float, or None for "does not
apply", per completion. So ours run in TRL's GRPOTrainer, and TRL's and open-r1's run here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from aha.answers.tags import Text, with_opened_thoughts
from aha.types import UserError
from aha.visible import did_you_mean

# The module's name of a function that a Python program gave.
FROM_PYTHON = "python"


@dataclass(frozen=True)
class Row:
    """One completion with its prompt and its values of the data columns."""

    prompt: Text
    completion: Text
    columns: dict[str, Any]

    @property
    def text(self) -> str:
        """The completion, after the opening tag when the prompt ended in one."""
        return with_opened_thoughts(self.prompt, self.completion)

    @property
    def tokens(self) -> int:
        return len(self.columns["completion_ids"])


class Reward(BaseModel):
    """Base of the shipped rewards; fields are options, unknown options are errors.

    `name` is what a recipe writes; `needs` are the columns that it cannot do without. Subclasses
    implement `score`, or `score_batch` where rows are faster together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def __name__(self) -> str:  # TRL labels its metrics with it
        return self.name

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """One value per completion. A column that holds not one value a row is passed over.

        Errors: ValueError naming the reward and a column that it needs.
        """
        usable = {
            name: values
            for name, values in columns.items()
            if hasattr(values, "__len__")
            and not isinstance(values, str)
            and len(values) == len(completions)
        }
        for name in self.needs:
            if name not in usable:
                raise ValueError(
                    f"reward {self.name!r} needs the column {name!r}; this data has "
                    f"{sorted(key for key, value in columns.items() if isinstance(value, list))}."
                )
        pairs = enumerate(zip(prompts, completions, strict=True))
        return self.score_batch(
            [Row(p, c, {name: usable[name][i] for name in usable}) for i, (p, c) in pairs]
        )

    def score_batch(self, rows: Sequence[Row]) -> list[float | None]:
        """One value per row; None where the reward does not apply."""
        return [self.score(row) for row in rows]

    def score(self, row: Row) -> float | None:
        """The value of one row."""
        raise NotImplementedError


class CustomReward:
    """A function with TRL's signature, under its own name and with options bound to it."""

    def __init__(self, name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.name = name
        self.__name__ = name
        self.__doc__ = function.__doc__
        self._function = function
        self._options = options
        parameters = inspect.signature(function).parameters.values()
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self.accepted = None if takes_all else {p.name for p in parameters}
        """The names of the arguments that the function takes; None: any."""

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """Calls the function with the arguments that its signature takes."""
        given = {"prompts": prompts, "completions": completions, **columns, **self._options}
        if self.accepted is not None:
            given = {name: value for name, value in given.items() if name in self.accepted}
        values: list[float | None] = self._function(**given)
        return values


def load_custom(reference: str, options: dict[str, Any]) -> CustomReward:
    """The reward that `module:function` or `path/file.py:function` names; this runs its code.

    Errors: UserError for a file, module, function or option that does not exist.
    """
    where, _, name = reference.rpartition(":")
    if where == FROM_PYTHON:
        raise UserError(
            f"rewards: {name!r} was a function of a Python program; go on there, with "
            "aha.train(resume=..., rewards=[...])."
        )
    file = Path(os.path.expanduser(where))
    if where.endswith(".py") and not file.is_file():
        raise UserError(f"rewards: there is no file {where!r}.")
    try:
        module = _from_file(file) if where.endswith(".py") else importlib.import_module(where)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UserError(
            f"rewards: {where!r} cannot be imported: {type(error).__name__}: "
            f"{' '.join(str(error).split())}."
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        near = did_you_mean(name, [key for key in vars(module) if not key.startswith("_")])
        raise UserError(f"rewards: {where!r} has no function {name!r}.{near}")
    try:
        reward = CustomReward(name, function, options)
    except ValueError:
        raise UserError(f"rewards: {reference!r} does not say which arguments it takes.") from None
    known = reward.accepted
    for option in options:
        if known is not None and option not in known:
            raise UserError(
                f"rewards.{reference}.options: {name}() takes no {option!r}."
                f"{did_you_mean(option, known)}"
            )
    return reward


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"aha_custom_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Functions that look themselves up (dataclasses, pickling) need their module registered.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
