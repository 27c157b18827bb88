"""The machine's load, read once a step: processor, memory and energy, without waiting."""

from __future__ import annotations

from pathlib import Path

import psutil

# Linux's counters of the processor packages' energy; often readable by root only.
_POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Reads the process's share of the processor since the last reading, and memory in use.

    Energy is the whole processor's, whoever used it, and only where its counters can be read.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._packages = sorted(powercap.glob("intel-rapl:?"))
        self._energy_uj = self._counters()

    def read(self) -> dict[str, float]:
        """Processor per cent (200: two cores), resident GiB, share of the machine's memory,
        joules where known."""
        with self._process.oneshot():
            load = {
                "machine/cpu_percent": self._process.cpu_percent(),
                "machine/ram_gb": self._process.memory_info().rss / 2**30,
                "machine/ram_percent": psutil.virtual_memory().percent,
            }
        before, self._energy_uj = self._energy_uj, self._counters()
        if before and self._energy_uj:
            load["machine/energy_j"] = sum(self._spent(before, self._energy_uj)) / 1e6
        return load

    def _counters(self) -> list[int]:
        try:
            return [int((package / "energy_uj").read_text()) for package in self._packages]
        except OSError:  # not this user's to read: the energy is not known
            return []

    def _spent(self, before: list[int], after: list[int]) -> list[int]:
        """Each package's microjoules; a counter begins again after its range."""
        return [
            b - a if b >= a else b - a + int((package / "max_energy_range_uj").read_text())
            for package, a, b in zip(self._packages, before, after, strict=True)
        ]
