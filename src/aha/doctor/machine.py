"""Judgement on a machine's facts: what is well, what is worth knowing, what must be mended.

The branches for GPUs are tested with made-up facts; they have not been run on a GPU.
"""

from __future__ import annotations

from aha.doctor.facts import Disk, Facts
from aha.doctor.finding import Finding, note, ok, problem

# `aha train` with the embedded model peaks at 0.57 GiB (docs/trust.md).
_LEAST_MEMORY = 0.8 * 2**30
_LITTLE_MEMORY = 4 * 2**30
_LEAST_DISK, _LITTLE_DISK = 0.1 * 2**30, 10 * 2**30


def judge(facts: Facts) -> list[Finding]:
    """Every check of the machine, in the order in which it is shown."""
    return [
        ok("system", f"{facts.system}, Python {facts.python}"),
        _processor(facts),
        _memory(facts),
        *_gpus(facts),
        _bfloat16(facts),
        _attention(facts),
        _kernels(facts),
        *map(_disk, facts.disks),
    ]


def _processor(facts: Facts) -> Finding:
    found = f"{facts.processor}: {facts.cores} cores, PyTorch uses {facts.threads} threads"
    if facts.threads > facts.cores:
        return note(
            "processor",
            found,
            f"Threads wait for each other; start with OMP_NUM_THREADS={facts.cores}.",
        )
    return ok("processor", found)


def _memory(facts: Facts) -> Finding:
    found = f"{_gib(facts.memory_free)} free of {_gib(facts.memory_total)}"
    if facts.memory_free < _LEAST_MEMORY:
        least = _gib(int(_LEAST_MEMORY))
        return problem(
            "memory", found, f"Free {least} or more: the smallest run needs that.", stops=True
        )
    if facts.memory_free < _LITTLE_MEMORY:
        return note("memory", found, "Enough for the embedded model and little else.")
    return ok("memory", found)


def _gpus(facts: Facts) -> list[Finding]:
    if facts.gpus:
        return [
            *(
                ok("GPU", f"{g.name}, {_gib(g.free)} free of {_gib(g.total)}, sm {g.capability}")
                for g in facts.gpus
            ),
            ok("CUDA", f"PyTorch for {facts.cuda_build}, driver {facts.driver or 'unknown'}"),
            *_unused(facts),
        ]
    if not facts.driver_gpus:
        advice = "The embedded model trains in minutes; a model of 0.5 B takes minutes a step."
        return [note("GPU", "none that PyTorch or nvidia-smi sees", advice)]
    seen = f"{', '.join(facts.driver_gpus)} (driver {facts.driver}), not seen by PyTorch"
    if facts.cuda_build is None:
        advice = "Install a CUDA build of PyTorch (pytorch.org/get-started): this one has none."
    else:
        advice = (
            f"Update the driver to one for CUDA {facts.cuda_build}, or unset CUDA_VISIBLE_DEVICES."
        )
    return [problem("GPU", seen, advice)]


def _unused(facts: Facts) -> list[Finding]:
    """A run takes the first GPU."""
    if len(facts.gpus) == 1:
        return []
    advice = "Give other runs their own with CUDA_VISIBLE_DEVICES=1 and so on."
    return [note("GPUs", f"{len(facts.gpus)}, of which a run uses the first", advice)]


def _bfloat16(facts: Facts) -> Finding:
    if facts.gpus:
        if facts.gpus[0].bfloat16:
            return ok("bfloat16", "on the GPU: large products and rollouts run in it")
        advice = "Everything runs in float32: count on twice the memory for activations."
        return note("bfloat16", f"not on {facts.gpus[0].name}", advice)
    had = "has" if facts.cpu_bfloat16 else "lacks"
    return ok("bfloat16", f"the processor {had} it; runs on a CPU are in float32 by themselves")


def _attention(facts: Facts) -> Finding:
    extra = f"flash-attn {facts.flash_attn}" if facts.flash_attn else "flash-attn not installed"
    if not facts.sdpa:
        advice = "Switch a backend of scaled_dot_product_attention on: all are off."
        return problem("attention", extra, advice, stops=True)
    where = "" if facts.gpus else ", for GPUs; a CPU has its own"
    needed = "" if facts.flash_attn else " and not needed"
    return ok("attention", f"sdpa with {', '.join(facts.sdpa)}{where}; {extra}{needed}")


def _kernels(facts: Facts) -> Finding:
    if facts.kernels != "off":
        return ok("compiled kernels", f"{facts.kernels}: {facts.kernels_why}")
    if facts.gpus:
        return ok("compiled kernels", f"off ({facts.kernels_why}); a GPU does not use them")
    advice = "Rollouts take several times as long without them."
    return note("compiled kernels", f"off: {facts.kernels_why}", advice)


def _disk(disk: Disk) -> Finding:
    what, found = f"disk for {disk.holds}", f"{_gib(disk.free)} free at {disk.path}"
    if disk.free < _LEAST_DISK:
        stops = disk.holds == "runs"
        return problem(what, found, "Free some space: what is written there does not fit.", stops)
    if disk.free < _LITTLE_DISK:
        advice = "A model of 1.5 B in float32 writes checkpoints of 17 GiB, with its optimizer."
        return note(what, found, advice)
    return ok(what, found)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
