"""What this machine can do at best: the ceilings that shares are shares of."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# Products as training has them (tokens x inputs x outputs), and a square one.
_PRODUCTS = ((2048, 2048, 2048), (2048, 896, 4864), (2048, 4864, 896), (1024, 4096, 4096))


def matmul_peak(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the fastest of a few matrix products, the best of several runs."""
    best = 0.0
    for m, k, n in _PRODUCTS:
        a = torch.randn(m, k, device=device, dtype=dtype)
        b = torch.randn(k, n, device=device, dtype=dtype)
        seconds = _best_time(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        best = max(best, 2.0 * m * k * n / seconds)
    return best


def read_bandwidth(device: str = "cpu", gigabytes: float = 1.0) -> float:
    """Bytes/s of summing a tensor far larger than any cache, the best of several runs."""
    x = torch.ones(int(gigabytes * 2**28), device=device)
    return x.numel() * 4 / _best_time(lambda: x.sum(), device)


def _best_time(action: Callable[[], object], device: str, repeats: int = 8) -> float:
    times = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        action()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
