"""A need for memory, and what a phase of them comes to with what the C library keeps.

On a CPU freed tensors below 8 MiB stay in the C library's heap (`keep_freed_memory`), so that the
heap is as large as its largest phase needs it. The holes between what lies there are a figure that
was measured, see `_FRAGMENTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aha.train.memory import HEAP_STEP_BYTES, LARGE_TENSOR_BYTES

# Beside a step of the heap, holes take this share of all tensors: the middle of the runs in
# docs/doctor.md.
_FRAGMENTS = 0.04


@dataclass(frozen=True)
class Need:
    """Bytes of a part, in tensors of `piece` bytes."""

    part: str
    total: int
    piece: int

    @property
    def in_heap(self) -> int:
        """What of it lies in the C library's heap (`aha.train.memory.keep_freed_memory`)."""
        return self.total if min(self.piece, self.total) < LARGE_TENSOR_BYTES else 0


def parts_of(
    phases: Mapping[str, Sequence[Need]], always: Sequence[Need], heap: bool
) -> dict[str, dict[str, int]]:
    """Bytes by phase and part; `heap` says whether freed small tensors are kept.

    What a phase does not use of the heap is `held`, the holes are `fragments`. What was there
    before has its own.
    """
    most = max(sum(need.in_heap for need in needs) for needs in phases.values())
    result = {}
    for name, needs in phases.items():
        parts: dict[str, int] = {}
        for need in (*always, *needs):
            parts[need.part] = parts.get(need.part, 0) + need.total
        if heap:
            parts["held"] = most - sum(need.in_heap for need in needs)
            tensors = sum(parts.values()) - parts.get("before", 0)
            parts["fragments"] = HEAP_STEP_BYTES + int(_FRAGMENTS * tensors)
        result[name] = parts
    return result
