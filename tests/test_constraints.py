"""constraints.txt pins what pyproject.toml asks for, and nothing that only some machines have."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]
MACHINES = [
    {"sys_platform": system, "platform_machine": machine, "os_name": kind}
    for system, machine, kind in [
        ("linux", "x86_64", "posix"), ("linux", "aarch64", "posix"),
        ("darwin", "arm64", "posix"), ("win32", "AMD64", "nt"),
    ]
]  # fmt: skip


def pinned(name: str, machine: dict[str, str]) -> list[str]:
    """The versions that apply on a machine."""
    return [
        next(iter(pin.specifier)).version
        for pin in PINS
        if canonicalize_name(pin.name) == canonicalize_name(name)
        and (pin.marker is None or pin.marker.evaluate(machine))
    ]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", MACHINES, ids=lambda x: "-".join(list(x.values())[:2]))
def test_every_requirement_has_one_version_of_its_range(
    python: str, system: dict[str, str]
) -> None:
    machine = {
        **system, "python_version": python, "python_full_version": f"{python}.1",
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
    }  # fmt: skip
    project = PROJECT["project"]
    asked = [
        *PROJECT["build-system"]["requires"],
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["gym"],
    ]
    for requirement in map(Requirement, asked):
        versions = pinned(requirement.name, machine)
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert len(versions) == 1, f"{requirement}: {versions}; make constraints"
            assert requirement.specifier.contains(versions[0]), f"{requirement}: {versions}"


def test_every_package_is_pinned_once_on_a_machine() -> None:
    names = {pin.name for pin in PINS}
    assert len(names) > 100
    for name in names:
        assert len(pinned(name, {})) <= 1, name


def test_a_pin_is_a_name_and_a_version_that_every_index_has() -> None:
    for pin in PINS:
        assert pin.url is None
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
    # torch names CUDA's packages itself, where it needs them.
    assert not [x.name for x in PINS if x.name.startswith(("nvidia", "cuda", "triton"))]
