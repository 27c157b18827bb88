"""docker/Dockerfile agrees with the package, and keeps to what an image should not have."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from programs import program

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its argument, in order."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    found = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, " ".join(argument.split())) for name, argument in found]


def stages() -> dict[str, list[tuple[str, str]]]:
    result: dict[str, list[tuple[str, str]]] = {}
    for name, argument in instructions():
        if name == "FROM":
            current = result.setdefault(argument.split(" AS ")[1], [])
        current.append((name, argument))
    return result


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_pip_installs_what_constraints_txt_pins() -> None:
    steps = [f"{name} {argument}" for name, argument in stages()["installed"]]
    (pinned,) = [x for x in steps if "PIP_CONSTRAINT=" in x]
    assert pinned.split()[1:] == [
        "PIP_CONSTRAINT=/opt/aha-source/constraints.txt",
        "PIP_BUILD_CONSTRAINT=/opt/aha-source/constraints.txt",
    ]
    copied = steps.index("COPY constraints.txt ./")
    assert steps[copied - 1] == "WORKDIR /opt/aha-source"
    installing = [at for at, step in enumerate(steps) if "pip install" in step]
    assert min(installing) > max(copied, steps.index(pinned))


def test_bases_are_pinned_and_stages_follow_one_another() -> None:
    bases = [argument.split(" AS ")[0] for name, argument in instructions() if name == "FROM"]
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.04", bases[0])
    assert bases[1:] == ["installed", "installed"]
    assert "latest" not in DOCKERFILE.read_text()


def test_tags_in_comments_are_this_version() -> None:
    from aha import __version__

    tags = re.findall(r"aha(?:-pod)?:(\d+\.\d+\.\d+)", DOCKERFILE.read_text())
    assert tags
    assert set(tags) == {__version__}


def test_the_default_stage_is_aha_without_rights() -> None:
    last = list(stages())[-1]
    assert last == "aha"
    steps = dict(stages()["aha"])
    assert steps["USER"] == "10001"
    assert json.loads(steps["ENTRYPOINT"]) == ["tini", "--", "aha"]
    volumes = json.loads(steps["VOLUME"])
    assert volumes == ["/aha/runs", "/cache"]
    # A volume takes owner and rights from the folder in the image.
    run = steps["RUN"]
    assert "--uid 10001" in run
    assert "install -d -o aha -g aha" in run
    assert all(volume in run for volume in volumes)
    assert steps["WORKDIR"] == "/aha"


def test_extras_are_the_package_s() -> None:
    (default,) = [value for name, value in instructions() if name == "ARG"]
    extras = default.removeprefix("EXTRAS=").split(",")
    assert set(extras) <= set(project()["optional-dependencies"])


def test_no_secret_is_baked_in() -> None:
    names = [value for name, value in instructions() if name in ("ARG", "ENV")]
    assert not re.search(r"(?i)token|secret|password|api_?key", " ".join(names))
    copied = [value for name, value in instructions() if name in ("COPY", "ADD")]
    assert copied == ["constraints.txt ./", "pyproject.toml README.md LICENSE ./", "src ./src"]


def test_the_builder_sees_only_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        part
        for name, value in instructions()
        if name == "COPY"
        for part in value.split()[:-1]
    }  # fmt: skip
    assert allowed == copied
    # What hatchling reads of the project besides its code.
    assert {project()["readme"], *project()["license-files"]} <= allowed


@pytest.mark.skipif(program("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [str(program("hadolint")), DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
