"""Find the compiled kernels for this processor, or compile them once.

A wheel of aha carries ready libraries. A source checkout compiles with `cc` or, where there is
none, with the compiler in the package `ziglang`; that takes some seconds, and the result stays in
the user's cache. `python -m aha.model.kernels.library` compiles all ready libraries for a wheel.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from aha.types import UserError
from aha.visible import package_yaml

_BUILD: dict[str, Any] = package_yaml("aha.model.kernels", "compilers.yaml")
_PATHS: dict[str, list[str]] = _BUILD["paths"]
_SYSTEMS: dict[str, dict[str, str]] = _BUILD["systems"]


@dataclass(frozen=True)
class Kernels:
    """The loaded library, None on path `off`. `why` is the reason for the path."""

    path: str
    library: Any
    why: str
    forced: bool = False


@functools.cache
def kernels() -> Kernels:
    """The kernels for this process, compiled if need be.

    `AHA_KERNELS=avx2|avx512|neon|off` forces a path. Without it the best one that the processor
    has is taken, and PyTorch's own operations serve where no library can be had.
    Errors: UserError for another value, or a path that this machine cannot run.
    """
    forced, found = os.environ.get("AHA_KERNELS", ""), runnable_paths()
    if forced == "off":
        return Kernels("off", None, "switched off by AHA_KERNELS=off")
    if forced and forced not in _PATHS:
        raise UserError(
            f"AHA_KERNELS: {forced!r} is not a kernel path; avx2, avx512, neon and off are."
        )
    if forced and forced not in found:
        raise UserError(
            f"AHA_KERNELS: this processor cannot run {forced!r}; it can run "
            f"{', '.join([*found, 'off'])}."
        )
    if not found:
        return Kernels("off", None, f"there are no kernels for {platform.machine()}")
    path = forced or found[0]
    try:
        library = ctypes.CDLL(str(_library_file(path)))
    except (OSError, _CannotCompile) as error:
        if forced:
            raise UserError(f"AHA_KERNELS: no library for {forced!r}: {error}.") from None
        return Kernels("off", None, str(error))
    why = f"forced by AHA_KERNELS={path}" if forced else "the best this processor has"
    return Kernels(path, library, why, bool(forced))


def runnable_paths() -> list[str]:
    """The paths that this processor can run, fastest first."""
    if _machine() == "aarch64":
        return ["neon"]
    capability = torch.backends.cpu.get_cpu_capability()
    if _machine() != "x86_64" or not capability.startswith("AVX"):
        return []
    return ["avx512", "avx2"] if capability == "AVX512" else ["avx2"]


class _CannotCompile(Exception):
    """No library is ready and none can be compiled; the message says why."""


def _machine() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _library_file(path: str) -> Path:
    """A ready library from the wheel, else one from the user's cache, compiled now if need be."""
    system = platform.system().lower()
    folder, name = resources.files("aha.model.kernels"), _file_name(path, system, _machine())
    with resources.as_file(folder.joinpath("ready").joinpath(name)) as ready:
        if ready.exists():
            return ready
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = cache / "aha" / name
    if not cached.exists():
        _compile(_compiler(), path, cached)
    return cached


def _file_name(path: str, system: str, machine: str) -> str:
    """Named by the sources' hash, so that a library of another version is never loaded."""
    folder = resources.files("aha.model.kernels")
    text = b"\0".join(folder.joinpath(name).read_bytes() for name in _BUILD["sources"])
    text += " ".join(_flags(path)).encode()
    version = hashlib.sha256(text).hexdigest()[:12]
    return f"{system}-{machine}-{path}-{version}{_SYSTEMS.get(system, {}).get('suffix', '.so')}"


def _flags(path: str) -> list[str]:
    return [*_BUILD["flags"], *_PATHS[path]]


def _compiler() -> list[str]:
    """The C compiler of this machine."""
    named = os.environ.get("CC", "cc")
    if shutil.which(named):
        return [named]
    if importlib.util.find_spec("ziglang"):
        target = _SYSTEMS.get(platform.system().lower(), {}).get(_machine())
        return [sys.executable, "-m", "ziglang", "cc", *(["-target", target] if target else [])]
    raise _CannotCompile(f"no C compiler ({named}) was found; pip install ziglang brings one")


def _compile(compiler: list[str], path: str, target: Path) -> None:
    """Compile the library to `target`. The file appears there only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary)
        for name in _BUILD["sources"]:
            text = resources.files("aha.model.kernels").joinpath(name).read_bytes()
            (folder / name).write_bytes(text)
        # Linked separately: -ffast-math at linking would switch off denormals in the whole process.
        system = [] if target.suffix == ".dll" else ["-lm", "-lpthread"]
        commands = (
            [*compiler, *_flags(path), "-c", "decode.c", "-o", "decode.o"],
            [*compiler, "-shared", "decode.o", "-o", target.name, *system],
        )
        for command in commands:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, cwd=folder, check=False
            )
            if done.returncode:
                first = (done.stderr.strip().splitlines() or ["no message"])[0]
                raise _CannotCompile(f"{' '.join(compiler)} failed: {first}")
        os.replace(folder / target.name, target)


def main() -> None:
    """Compile every library that a wheel carries, with zig, into aha/model/kernels/ready."""
    ready = Path(__file__).parent / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    for system, targets in _SYSTEMS.items():
        for machine in ("x86_64", "aarch64"):
            for path in ("neon",) if machine == "aarch64" else ("avx2", "avx512"):
                if machine in targets:
                    zig = [sys.executable, "-m", "ziglang", "cc", "-target", targets[machine]]
                    file = ready / _file_name(path, system, machine)
                    _compile(zig, path, file)
                    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
