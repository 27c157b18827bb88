"""Rewards that someone else wrote: any function for TRL or open-r1, named in the recipe.

`module:function` or `path/file.py:function`. Naming one runs its code, as importing it would.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aha.answers.tags import Text
from aha.types import UserError
from aha.visible import did_you_mean


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
        self._accepted = None if takes_all else {p.name for p in parameters}

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """What the function returns; it is given the arguments that its signature takes."""
        given = {"prompts": prompts, "completions": completions, **columns, **self._options}
        if self._accepted is not None:
            given = {name: value for name, value in given.items() if name in self._accepted}
        values: list[float | None] = self._function(**given)
        return values


def load_custom(reference: str, options: dict[str, Any]) -> CustomReward:
    """The reward that `module:function` or `path/file.py:function` names.

    Errors: UserError when there is no such file, module or function, or an option that the
    function does not take.
    """
    where, _, name = reference.rpartition(":")
    module = _from_file(where) if where.endswith(".py") else _from_module(where)
    function = getattr(module, name, None)
    if not callable(function):
        near = did_you_mean(name, [key for key in vars(module) if not key.startswith("_")])
        raise UserError(f"rewards: {where!r} has no function {name!r}.{near}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        raise UserError(f"rewards: {reference!r} does not say which arguments it takes.") from None
    known = {p.name for p in parameters}
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in known and not takes_all:
            raise UserError(
                f"rewards.{reference}.options: {name}() takes no {option!r}."
                f"{did_you_mean(option, known)}"
            )
    return CustomReward(name, function, options)


def _from_file(where: str) -> ModuleType:
    path = Path(os.path.expanduser(where))
    if not path.is_file():
        raise UserError(f"rewards: there is no file {where!r}.")
    spec = importlib.util.spec_from_file_location(f"aha_custom_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Functions that look themselves up (dataclasses, pickling) need their module registered.
    sys.modules[spec.name] = module
    _execute(lambda: spec.loader.exec_module(module), where)  # type: ignore[union-attr]
    return module


def _from_module(where: str) -> ModuleType:
    found: list[ModuleType] = []
    _execute(lambda: found.append(importlib.import_module(where)), where)
    return found[0]


def _execute(action: Callable[[], None], where: str) -> None:
    try:
        action()
    except (Exception, SystemExit) as error:  # the user's own code: what it raises is their news
        raise UserError(
            f"rewards: {where!r} cannot be imported: {type(error).__name__}: "
            f"{' '.join(str(error).split())}."
        ) from None
