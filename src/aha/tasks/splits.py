"""The split between train and test, decided by content alone.

A problem's split is a hash of its key, so no seed, size, order or file can move a test
problem into training, and two people who load the same rows hold out the same ones.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "test"]

# Not a setting: a fraction that a recipe could change would move problems between splits.
TEST_FRACTION = 0.1


def split_of(key: str) -> Split:
    """The split that a problem key belongs to, for ever."""
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if share < TEST_FRACTION else "train"
