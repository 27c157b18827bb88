"""Compile decode.c, which includes kernels.c, once for this machine.

The C is small and has no dependency, so the build takes a second or two and needs nothing but a
compiler; the result lies in the user's cache, named by the hash of everything that went into it.
Threads are PyTorch's own: two pools of threads that both wait busily would halve each other.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

_SOURCES = ("kernels.c", "decode.c")
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-fPIC")


@dataclass(frozen=True)
class Kernels:
    """The compiled functions, or none and the reason."""

    library: ctypes.CDLL | None
    missing: str


@functools.cache
def kernels() -> Kernels:
    """The kernels, built if need be.

    `AHA_KERNELS=0` in the environment does without. Where there is no compiler, or no thread
    pool of PyTorch's to join, `missing` says so and PyTorch's own operations serve.
    """
    if os.environ.get("AHA_KERNELS") == "0":
        return Kernels(None, "switched off by AHA_KERNELS=0")
    if sys.platform != "linux":
        return Kernels(None, f"not built on {sys.platform}")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return Kernels(None, "no C compiler (cc) was found")
    pool = _thread_pool()
    if pool is None:
        return Kernels(None, "PyTorch's OpenMP library was not found")
    try:
        path = _built(compiler)
    except subprocess.CalledProcessError as error:
        first = (error.stderr or "").strip().splitlines()[:1]
        return Kernels(None, f"{compiler} failed: {' '.join(first)}")
    except OSError as error:
        return Kernels(None, f"could not be written: {error}")
    ctypes.CDLL(str(pool), mode=ctypes.RTLD_GLOBAL)
    return Kernels(ctypes.CDLL(str(path)), "")


def _thread_pool() -> Path | None:
    root = Path(torch.__file__).parent
    found = [*root.glob("lib/libgomp*.so*"), *root.parent.glob("torch.libs/libgomp*.so*")]
    return found[0] if found else None


def _built(compiler: str) -> Path:
    folder = resources.files("aha.kernels")
    sources = {name: folder.joinpath(name).read_bytes() for name in _SOURCES}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aha"
    path = cache / f"kernels-{_fingerprint(compiler, b''.join(sources.values()))}.so"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            for name, text in sources.items():
                (Path(temporary) / name).write_bytes(text)
            compiled, linked = Path(temporary) / "kernels.o", Path(temporary) / path.name
            main = Path(temporary) / _SOURCES[-1]
            _run([compiler, *_FLAGS, "-c", str(main), "-o", str(compiled)])
            # Without -fopenmp here: its symbols are found in PyTorch's library when loaded.
            _run([compiler, "-shared", str(compiled), "-o", str(linked), "-lm"])
            os.replace(linked, path)
    return path


def _fingerprint(compiler: str, source: bytes) -> str:
    """Of the source, the flags, the compiler and the processor it compiles for."""
    version = _run([compiler, "--version"])
    processor = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor += "".join(sorted({x for x in lines if x.startswith(("flags", "model name"))}))
    parts = (source, " ".join(_FLAGS).encode(), version.encode(), processor.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
