"""A device's memory: how much is free, when it ran out, and what the C library does with it."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

# Under `keep_freed_memory`, smaller tensors lie in a heap that grows by steps and never shrinks.
LARGE_TENSOR_BYTES = 2**23
HEAP_STEP_BYTES = 2**26
_CGROUP = Path("/sys/fs/cgroup")
# Only PyTorch's allocator for GPUs raises OutOfMemoryError. The CPU's, and libraries that allocate
# for themselves (contexts, handles, workspaces, graphs), raise a RuntimeError with one of these.
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSPARSE
)
# glibc's numbers of mallopt's options.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def is_out_of_memory(error: RuntimeError) -> bool:
    """True if PyTorch, CUDA or one of its libraries could not get memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(x in str(error) for x in _NO_MEMORY)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    available, room = psutil.virtual_memory().available, container_room()
    return int(available if room is None else min(available, room))


def container_limit(root: Path = _CGROUP) -> int | None:
    """Bytes that this container may use; none without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        value = _number(root / name)
        # Version 1 writes a number larger than all memory when there is no limit.
        if value is not None and value < psutil.virtual_memory().total:
            return value
    return None


def container_room(root: Path = _CGROUP) -> int | None:
    """Bytes that are left of `container_limit`. Cached files count as free: they can be dropped."""
    limit = container_limit(root)
    if limit is None:
        return None
    used = _number(root / "memory.current") or _number(root / "memory/memory.usage_in_bytes") or 0
    for name in ("memory.stat", "memory/memory.stat"):
        with suppress(OSError):
            rows = (root / name).read_text(encoding="utf-8").splitlines()
            used -= sum(int(row.split()[1]) for row in rows if row.startswith("inactive_file "))
    return max(0, limit - used)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next tensor instead of returning it to the system.

    By default it returns every large tensor at once, and a step spends a tenth of its time in
    page faults (docs/log.md). Tensors above 8 MiB are still returned: kept, they would leave
    holes. Other C libraries are left as they are.
    """
    if sys.platform == "win32":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE_TENSOR_BYTES)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, HEAP_STEP_BYTES)
