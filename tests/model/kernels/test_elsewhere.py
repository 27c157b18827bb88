"""The kernels on a processor that this machine is not: compiled for ARM64 and run by QEMU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from aha.model.kernels import library

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("elsewhere.c")
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
CROSS = shutil.which("aarch64-linux-gnu-gcc")
ZIG = importlib.util.find_spec("ziglang")


def compiled(compiler: list[str], path: str, target: Path) -> Path:
    flags = library._flags(path)
    include = f"-I{Path(library.__file__).parent}"
    command = [*compiler, *flags, include, str(SOURCE), "-o", str(target), "-lm", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def decoded(command: list[str]) -> list[tuple[int, int, float]]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(int(row), int(token), float(logprob)) for row, token, logprob in rows]


@pytest.mark.skipif(not library.runnable_paths(), reason="no kernels here to compare with")
@pytest.mark.skipif(QEMU is None, reason="qemu-user is not installed")
@pytest.mark.skipif(not (CROSS or ZIG), reason="neither ziglang nor a cross compiler is installed")
@pytest.mark.parametrize("packed", ["0", "1"])
def test_arm_draws_the_same_tokens(packed: str, tmp_path: Path) -> None:
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    arm = compiled([CROSS] if CROSS else zig, "neon", tmp_path / "arm") if QEMU else tmp_path
    here = compiled(library._compiler(), library.runnable_paths()[0], tmp_path / "here")
    expected = decoded([str(here), packed])
    ours = decoded(
        [str(QEMU), *(["-L", "/usr/aarch64-linux-gnu"] if CROSS else []), str(arm), packed]
    )
    assert len(expected) > 1000
    assert [item[:2] for item in ours] == [item[:2] for item in expected]
    for (_, _, mine), (_, _, theirs) in zip(ours, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5)


@pytest.mark.skipif(ZIG is None, reason="ziglang is not installed")
def test_a_wheel_brings_kernels_for_every_system(tmp_path: Path) -> None:
    source, bare = tmp_path / "source", {"PATH": "/nowhere", "HOME": str(tmp_path)}
    root = Path(__file__).parents[3]
    shutil.copytree(root / "src", source / "src", ignore=shutil.ignore_patterns("ready"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    built = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source / "src"), *sys.path[1:]])}
    module = [sys.executable, "-m", "aha.model.kernels.library"]
    subprocess.run(module, check=True, cwd=tmp_path, env=built)
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", str(tmp_path)]
    subprocess.run(command, check=True, cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for system, targets in library._SYSTEMS.items():
        for machine in targets.keys() - {"suffix"}:
            assert any(f"kernels/ready/{system}-{machine}-" in name for name in names)
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "from aha.model.kernels.library import kernels; print(kernels(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**bare, "PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"path='{library.runnable_paths()[0]}'" in done.stdout
    assert not list(tmp_path.glob(".cache/**/*.so"))
