"""A check that the processes started here have ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def nothing_left_running() -> Iterator[None]:
    """What this process has below it after, it had before; other tests keep workers of theirs."""
    before = set(_below())
    try:
        yield
    finally:
        assert set(_below()) <= before


def _below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)
