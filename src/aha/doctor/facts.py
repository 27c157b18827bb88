"""What there is on this machine, read once and without judging: `aha.doctor.machine` judges.

Facts are plain data, so that the judgement on machines that are not at hand can be tested. Nothing
here changes anything but that a GPU gets its context.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import constants

from aha.model.kernels.build import kernels
from aha.runs import processor, usable_cores
from aha.train.memory import container_limit, free_memory

# Instructions that compute in bfloat16, as Linux names them.
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
_FLASH_NAMES = ("flash-attn", "flash_attn", "flash-attn-3")
_DRIVER_SECONDS = 10


@dataclass(frozen=True)
class Gpu:
    """A GPU that PyTorch sees; memory in bytes."""

    name: str
    total: int
    free: int
    capability: str
    bfloat16: bool


@dataclass(frozen=True)
class Disk:
    """Free bytes where something is written; `holds` says what."""

    holds: str
    path: str
    free: int


@dataclass(frozen=True)
class Facts:
    """This machine. Memory is in bytes and a container's where there is one.

    `cuda_build`: the CUDA that PyTorch was built for, none for a build without. `driver`: the
    NVIDIA driver's version, and `driver_gpus` what it sees. `kernels`: the path of the
    compiled kernels, off where there are none, and why. `sdpa`: attention kernels that are
    switched on.
    """

    system: str
    python: str
    processor: str
    cores: int
    threads: int
    cpu_bfloat16: bool
    memory_total: int
    memory_free: int
    cuda_build: str | None
    driver: str | None
    driver_gpus: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    sdpa: tuple[str, ...]
    flash_attn: str | None
    kernels: str
    kernels_why: str
    disks: tuple[Disk, ...]


def gather() -> Facts:
    """This machine's facts; compiles the kernels where there are none yet."""
    driver, seen = _driver()
    total, limit = psutil.virtual_memory().total, container_limit()
    return Facts(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        processor=processor(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        cpu_bfloat16=_cpu_bfloat16(),
        memory_total=total if limit is None else min(total, limit),
        memory_free=free_memory(torch.device("cpu")),
        cuda_build=torch.version.cuda or torch.version.hip,
        driver=driver,
        driver_gpus=seen,
        gpus=_gpus(),
        sdpa=_sdpa(),
        flash_attn=_flash_attn(),
        kernels=kernels().path,
        kernels_why=kernels().why,
        disks=_disks(),
    )


def _cpu_bfloat16() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = {
        flag
        for line in text.splitlines()
        if line.lower().startswith(("flags", "features"))
        for flag in line.partition(":")[2].split()
    }
    return not flags.isdisjoint(_BFLOAT16_FLAGS)


def _driver() -> tuple[str | None, tuple[str, ...]]:
    """The NVIDIA driver's version and the GPUs it sees, whatever PyTorch was built for."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None, ()
    query = [command, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603
            query, capture_output=True, text=True, check=True, timeout=_DRIVER_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None, ()
    rows = [line.partition(",") for line in done.stdout.splitlines() if "," in line]
    return (rows[0][0].strip() if rows else None), tuple(name.strip() for _, _, name in rows)


def _gpus() -> tuple[Gpu, ...]:
    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = f"{properties.major}.{properties.minor}"
        bfloat16 = properties.major >= 8 or torch.version.hip is not None
        found.append(Gpu(properties.name, total, free, capability, bfloat16))
    return tuple(found)


def _sdpa() -> tuple[str, ...]:
    backends: Any = torch.backends.cuda
    switches = {
        "flash": backends.flash_sdp_enabled(),
        "memory-efficient": backends.mem_efficient_sdp_enabled(),
        "cuDNN": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    return tuple(name for name, on in switches.items() if on)


def _flash_attn() -> str | None:
    for name in _FLASH_NAMES:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _disks() -> tuple[Disk, ...]:
    places = {"runs": Path("runs"), "hub cache": Path(constants.HF_HUB_CACHE)}
    return tuple(
        Disk(holds, str(path), shutil.disk_usage(_existing(path)).free)
        for holds, path in places.items()
    )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.exists())
