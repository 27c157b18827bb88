"""The kernels on a processor that this machine is not: compiled for ARM64 and run by QEMU."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aha.kernels import build

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("elsewhere.c")
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
CROSS = shutil.which("aarch64-linux-gnu-gcc")
ZIG = importlib.util.find_spec("ziglang")


def compiled(compiler: list[str], path: str, target: Path) -> Path:
    flags = [*build._FLAGS, *build._PROCESSOR_FLAGS[path]]
    include = f"-I{Path(build.__file__).parent}"
    command = [*compiler, *flags, include, str(SOURCE), "-o", str(target), "-lm", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def decoded(command: list[str]) -> list[tuple[int, int, float]]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(int(row), int(token), float(logprob)) for row, token, logprob in rows]


@pytest.mark.skipif(not build.runnable_paths(), reason="no kernels here to compare with")
@pytest.mark.skipif(QEMU is None, reason="qemu-user is not installed")
@pytest.mark.skipif(not (CROSS or ZIG), reason="neither ziglang nor a cross compiler is installed")
@pytest.mark.parametrize("packed", ["0", "1"])
def test_arm_draws_the_same_tokens(packed: str, tmp_path: Path) -> None:
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    arm = compiled([CROSS] if CROSS else zig, "neon", tmp_path / "arm") if QEMU else tmp_path
    here = compiled(build._compiler(), build.runnable_paths()[0], tmp_path / "here")
    expected = decoded([str(here), packed])
    ours = decoded(
        [str(QEMU), *(["-L", "/usr/aarch64-linux-gnu"] if CROSS else []), str(arm), packed]
    )
    assert len(expected) > 1000
    assert [item[:2] for item in ours] == [item[:2] for item in expected]
    for (_, _, mine), (_, _, theirs) in zip(ours, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5)
