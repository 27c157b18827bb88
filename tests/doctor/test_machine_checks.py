"""Findings on made-up machines; no GPU was at hand for those that have one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aha.doctor.hardware import Disk, Finding, Machine, hardware_findings, this_machine

GIB = 2**30


def found(facts: Machine, what: str) -> Finding:
    (finding,) = [finding for finding in hardware_findings(facts) if finding.what == what]
    return finding


def test_a_laptop_is_well_but_has_no_gpu(laptop: Machine) -> None:
    assert [f.what for f in hardware_findings(laptop) if f.state != "ok"] == ["GPU"]
    assert found(laptop, "GPU").state == "note"


def test_a_workstation_is_well(workstation: Machine) -> None:
    findings = hardware_findings(workstation)
    assert {finding.state for finding in findings} == {"ok"}
    assert found(workstation, "GPU").found == "A Card, 23.0 GiB free of 24.0 GiB, sm 8.9"
    assert found(workstation, "CUDA").found == "PyTorch for 12.8, driver 570.1"
    assert "on the GPU" in found(workstation, "bfloat16").found


def test_a_gpu_that_only_the_driver_sees_is_a_problem(workstation: Machine) -> None:
    without_build = replace(workstation, gpus=(), cuda_build=None)
    assert found(without_build, "GPU").state == "problem"
    assert "CUDA build" in found(without_build, "GPU").advice
    old_driver = replace(workstation, gpus=())
    assert "driver" in found(old_driver, "GPU").advice
    assert "12.8" in found(old_driver, "GPU").advice
    # Training on the processor goes on working.
    assert not any(finding.stops for finding in hardware_findings(old_driver))


def test_a_gpu_without_bfloat16_is_noted(workstation: Machine) -> None:
    old = replace(workstation.gpus[0], bfloat16=False, capability="7.5")
    assert found(replace(workstation, gpus=(old,)), "bfloat16").state == "note"


def test_of_several_gpus_the_first_is_used(workstation: Machine) -> None:
    several = replace(workstation, gpus=workstation.gpus * 2)
    assert found(several, "GPUs").state == "note"
    assert "CUDA_VISIBLE_DEVICES" in found(several, "GPUs").advice


@pytest.mark.parametrize(
    ("free", "state", "stops"),
    [(0.7, "problem", True), (0.9, "note", False), (3.9, "note", False), (4.1, "ok", False)],
)
def test_memory(laptop: Machine, free: float, state: str, stops: bool) -> None:
    finding = found(replace(laptop, memory_free=int(free * GIB)), "memory")
    assert (finding.state, finding.stops) == (state, stops)


def test_more_threads_than_cores_are_noted(laptop: Machine) -> None:
    finding = found(replace(laptop, cores=2), "processor")
    assert finding.state == "note"
    assert "OMP_NUM_THREADS=2" in finding.advice


def test_missing_kernels_matter_on_a_cpu_only(laptop: Machine, workstation: Machine) -> None:
    assert "avx2" in found(laptop, "compiled kernels").found
    why = "no C compiler (cc) was found"
    finding = found(replace(laptop, kernels="off", kernels_why=why), "compiled kernels")
    assert (finding.state, why in finding.found) == ("note", True)
    without = replace(workstation, kernels="off", kernels_why=why)
    assert found(without, "compiled kernels").state == "ok"


def test_attention(laptop: Machine) -> None:
    assert found(replace(laptop, sdpa=()), "attention").stops
    assert "flash-attn 2.8" in found(replace(laptop, flash_attn="2.8"), "attention").found


def test_disks(laptop: Machine) -> None:
    def disks(runs: float, cache: float) -> list[Finding]:
        both = (
            Disk("runs", "/r", int(runs * GIB)),
            Disk("hub cache", "/c", int(cache * GIB)),
        )
        facts = replace(laptop, disks=both)
        return [found(facts, "disk for runs"), found(facts, "disk for hub cache")]

    assert [f.state for f in disks(100, 5)] == ["ok", "note"]
    full = disks(0.05, 0.05)
    assert [f.state for f in full] == ["problem", "problem"]
    # Without room for downloads what is here already still trains.
    assert [f.stops for f in full] == [True, False]


def test_every_problem_says_what_to_do(laptop: Machine, workstation: Machine) -> None:
    bad = replace(
        workstation,
        gpus=(),
        memory_free=0,
        sdpa=(),
        disks=(Disk("runs", "/r", 0), Disk("hub cache", "/c", 0)),
    )
    problems = [finding for finding in hardware_findings(bad) if finding.state == "problem"]
    assert len(problems) == 5
    for finding in problems:
        assert finding.advice.endswith(".")


def test_the_facts_of_this_machine() -> None:
    facts = this_machine()
    assert facts.cores >= 1
    assert 0 < facts.memory_free <= facts.memory_total
    assert {disk.holds for disk in facts.disks} == {"runs", "hub cache"}
    assert all(disk.free > 0 for disk in facts.disks)
