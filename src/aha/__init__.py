"""aha: reproduce DeepSeek-R1-Zero's "aha moment" with GRPO on one machine.

`train`, `evaluate`, `load_run`, `prepare`, `Run` and `Recipe` are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aha.api import Run, evaluate, load_run, prepare, train
    from aha.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Recipe", "Run", "evaluate", "load_run", "prepare", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'aha' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("aha.recipe" if name == "Recipe" else "aha.api"), name)
