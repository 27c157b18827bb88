"""Runs the tests with the lowest and with the newest packages that pyproject.toml allows.

`make test-versions` (two environments, two runs of the tests). Arguments are pytest's, such as
`tests/train`; without any, the tests of `make test`. A wheel of torch in a folder that pip's
find-links or UV_FIND_LINKS names is taken at both ends: elsewhere on Linux torch brings CUDA.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
ENDS = {"lowest": "lowest-direct", "newest": "highest"}


def torch_wheel() -> tuple[Path, str] | None:
    """A folder on this disk with a wheel of torch for this Python, and the wheel's version."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    configured = subprocess.run(pip, capture_output=True, text=True, check=False).stdout
    named = [os.environ.get("UV_FIND_LINKS", ""), os.environ.get("PIP_FIND_LINKS", ""), configured]
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for folder in re.split(r"[\s,]+", " ".join(named).strip()):
        for wheel in sorted(Path(folder).glob(f"torch-*-{tag}-*.whl")):
            return wheel.parent, wheel.name.split("-")[1]
    return None


def install(folder: Path, resolution: str) -> dict[str, str]:
    """Make the environment. Returns its packages with their versions."""
    subprocess.run([UV, "venv", "--clear", "--python", sys.executable, folder], check=True)
    command = [UV, "pip", "install", "--compile-bytecode", "--python", folder]
    command += ["--resolution", resolution]
    wheel = torch_wheel()
    if wheel is not None:
        command += ["--find-links", wheel[0], f"torch=={wheel[1]}"]
    subprocess.run([*command, "--editable", f"{ROOT}[dev]"], check=True)
    freeze = [UV, "pip", "freeze", "--python", folder]
    found = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^(\S+)==(\S+)$", found, re.M))


def run_tests(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Run pytest, shown as it goes. Returns its exit code and its closing summary."""
    # The programs that come with packages (uv, shellcheck) are this environment's too.
    environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [folder / "bin" / "python", "-m", "pytest", "-q", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    broken = [f"  {line}" for line in lines if line.startswith(("FAILED ", "ERROR "))]
    # Trackio has a last word after pytest's.
    counts = [line for line in lines if re.search(r" in \d+\.\d+s", line)]
    return process.wait(), "\n".join([counts[-1] if counts else "pytest did not end", *broken])


def main(arguments: list[str]) -> int:
    packages, results = {}, {}
    for end, resolution in ENDS.items():
        folder = ROOT / "build" / "versions" / end
        print(f"== {end}", flush=True)
        packages[end] = install(folder, resolution)
        results[end] = run_tests(folder, arguments or ["-m", "not slow"])

    lowest, newest = packages.values()
    print("\nPackages that differ (lowest, newest):")
    for name in sorted(lowest | newest, key=str.lower):
        low, new = lowest.get(name, "none"), newest.get(name, "none")
        if low != new:
            print(f"  {name:32} {low:20} {new}")
    wheel = torch_wheel()
    if wheel is not None:
        print(f"torch was {wheel[1]} at both ends: its wheel is in {wheel[0]}.")
    for end, (_, summary) in results.items():
        print(f"{end}: {summary}")
    return int(any(code for code, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
