"""This machine: its facts, read once, and the findings on them.

Facts are plain data, so that findings on other machines can be tested. The branches for GPUs are
tested with made-up facts; they have not been run on a GPU.
"""

from __future__ import annotations

import platform
import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from huggingface_hub import constants
from torch.utils import collect_env

from aha.model.free_memory import container_limit, free_memory
from aha.model.kernels.library import kernels
from aha.runs import processor, usable_cores

# Instructions that compute in bfloat16, as Linux names them.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_FLASH_NAMES = ("flash-attn", "flash_attn", "flash-attn-3")
# `aha train` with the embedded model peaks at 0.57 GiB (docs/trust.md).
_LEAST_MEMORY = 0.8 * 2**30
_LITTLE_MEMORY = 4 * 2**30
_LEAST_DISK, _LITTLE_DISK = 0.1 * 2**30, 10 * 2**30


@dataclass(frozen=True)
class Finding:
    """The result of one check: `found` on `what`. A problem says in one sentence what to do.

    `stops`: training cannot work until this is mended.
    """

    what: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""
    stops: bool = False


def ok(what: str, found: str) -> Finding:
    return Finding(what, "ok", found)


def note(what: str, found: str, advice: str = "") -> Finding:
    return Finding(what, "note", found, advice)


def problem(what: str, found: str, advice: str, stops: bool = False) -> Finding:
    return Finding(what, "problem", found, advice, stops)


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
    """Free bytes at a path; `holds` names what is written there."""

    holds: str
    path: str
    free: int


@dataclass(frozen=True)
class Machine:
    """Facts of a machine. Memory is in bytes, a container's inside a container.

    `cuda_build`: the CUDA that PyTorch was built for, none for a build without. `driver`: the
    NVIDIA driver's version; `driver_gpus`: the GPUs it sees. `kernels`: the path of the compiled
    kernels, off where there are none; `kernels_why`: the reason. `sdpa`: attention kernels that
    are switched on.
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


def this_machine() -> Machine:
    """This machine's facts; compiles the kernels if that was not done yet."""
    total, limit = psutil.virtual_memory().total, container_limit()
    environment: Any = collect_env  # untyped
    run = environment.run
    # nvidia-smi sees GPUs also where PyTorch was built without CUDA.
    seen = environment.get_gpu_info(run) or ""
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        it = torch.cuda.get_device_properties(index)
        free, size = torch.cuda.mem_get_info(index)
        bfloat16 = it.major >= 8 or torch.version.hip is not None
        gpus.append(Gpu(it.name, size, free, f"{it.major}.{it.minor}", bfloat16))
    attention: Any = torch.backends.cuda
    switches = {
        "flash": attention.flash_sdp_enabled(),
        "memory-efficient": attention.mem_efficient_sdp_enabled(),
        "cuDNN": attention.cudnn_sdp_enabled(),
        "math": attention.math_sdp_enabled(),
    }
    packages = {found.name: found.version for found in metadata.distributions()}
    places = {"runs": Path("runs"), "hub cache": Path(constants.HF_HUB_CACHE)}
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        processor=processor(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        cpu_bfloat16=not _BFLOAT16_FLAGS.isdisjoint(environment.get_cpu_info(run).split()),
        memory_total=total if limit is None else min(total, limit),
        memory_free=free_memory(torch.device("cpu")),
        cuda_build=torch.version.cuda or torch.version.hip,
        driver=environment.get_nvidia_driver_version(run),
        driver_gpus=tuple(re.sub(r"^GPU \d+: ", "", line) for line in seen.splitlines()),
        gpus=tuple(gpus),
        sdpa=tuple(name for name, on in switches.items() if on),
        flash_attn=next((packages[name] for name in _FLASH_NAMES if name in packages), None),
        kernels=kernels().path,
        kernels_why=kernels().why,
        disks=tuple(
            Disk(holds, str(path), shutil.disk_usage(_existing(path)).free)
            for holds, path in places.items()
        ),
    )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def hardware_findings(machine: Machine) -> list[Finding]:
    """Every check of the machine, in the order in which it is shown."""
    findings = [ok("system", f"{machine.system}, Python {machine.python}")]

    cores, threads = machine.cores, machine.threads
    found = f"{machine.processor}: {cores} cores, PyTorch uses {threads} threads"
    advice = f"Threads wait for each other; start with OMP_NUM_THREADS={cores}."
    crowded = threads > cores
    findings.append(note("processor", found, advice) if crowded else ok("processor", found))

    found = f"{_gib(machine.memory_free)} free of {_gib(machine.memory_total)}"
    if machine.memory_free < _LEAST_MEMORY:
        advice = f"Free {_gib(_LEAST_MEMORY)} or more: the smallest run needs that."
        findings.append(problem("memory", found, advice, stops=True))
    elif machine.memory_free < _LITTLE_MEMORY:
        findings.append(note("memory", found, "Enough for the embedded model and little else."))
    else:
        findings.append(ok("memory", found))

    findings += _gpus(machine)
    if not machine.gpus:
        has = "has" if machine.cpu_bfloat16 else "lacks"
        found = f"the processor {has} it; runs on a CPU are in float32 by default"
        findings.append(ok("bfloat16", found))
    elif machine.gpus[0].bfloat16:
        findings.append(ok("bfloat16", "on the GPU: large products and rollouts run in it"))
    else:
        advice = "Everything runs in float32: count on twice the memory for activations."
        findings.append(note("bfloat16", f"not on {machine.gpus[0].name}", advice))

    flash = machine.flash_attn
    extra = f"flash-attn {flash}" if flash else "flash-attn not installed"
    if not machine.sdpa:
        advice = "Switch a backend of scaled_dot_product_attention on: all are off."
        findings.append(problem("attention", extra, advice, stops=True))
    else:
        where = "" if machine.gpus else ", for GPUs; a CPU has its own"
        needed = "" if flash else " and not needed"
        found = f"sdpa with {', '.join(machine.sdpa)}{where}; {extra}{needed}"
        findings.append(ok("attention", found))

    path, why = machine.kernels, machine.kernels_why
    if path != "off":
        findings.append(ok("compiled kernels", f"{path}: {why}"))
    elif machine.gpus:
        findings.append(ok("compiled kernels", f"off ({why}); a GPU does not use them"))
    else:
        advice = "Rollouts take several times as long without them."
        findings.append(note("compiled kernels", f"off: {why}", advice))

    for disk in machine.disks:
        what, found = f"disk for {disk.holds}", f"{_gib(disk.free)} free at {disk.path}"
        if disk.free < _LEAST_DISK:
            advice = "Free some space: there is no room for what is written there."
            findings.append(problem(what, found, advice, stops=disk.holds == "runs"))
        elif disk.free < _LITTLE_DISK:
            advice = "A model of 1.5 B in float32 writes checkpoints of 17 GiB, with its optimizer."
            findings.append(note(what, found, advice))
        else:
            findings.append(ok(what, found))
    return findings


def _gpus(machine: Machine) -> list[Finding]:
    build, driver = machine.cuda_build, machine.driver
    if machine.gpus:
        findings = [
            ok("GPU", f"{g.name}, {_gib(g.free)} free of {_gib(g.total)}, sm {g.capability}")
            for g in machine.gpus
        ]
        findings.append(ok("CUDA", f"PyTorch for {build}, driver {driver or 'unknown'}"))
        if len(machine.gpus) > 1:
            advice = "Give other runs their own with CUDA_VISIBLE_DEVICES=1 and so on."
            found = f"{len(machine.gpus)}; a run uses the first"
            findings.append(note("GPUs", found, advice))
        return findings
    if not machine.driver_gpus:
        advice = "The embedded model trains in minutes; a model of 0.5 B takes minutes a step."
        return [note("GPU", "PyTorch and nvidia-smi see none", advice)]
    found = f"{', '.join(machine.driver_gpus)} (driver {driver}), not seen by PyTorch"
    advice = f"Update the driver to one for CUDA {build}, or unset CUDA_VISIBLE_DEVICES."
    if build is None:
        advice = "Install a CUDA build of PyTorch (pytorch.org/get-started): this one has none."
    return [problem("GPU", found, advice)]


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
