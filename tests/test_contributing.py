"""The worked changes in CONTRIBUTING.md can be made, and their own tests pass with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def apply(diffs: str, folder: Path) -> None:
    """Make the changes of diffs without line numbers. Lines without context go to the file's end.

    An import alone goes above the first import of the package.
    """
    for part in re.split(r"^--- ", diffs, flags=re.MULTILINE)[1:]:
        before, after, *lines = part.rstrip("\n").split("\n")
        path = folder / after.removeprefix("+++ b/")
        if before == "/dev/null":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line[1:]}\n" for line in lines))
            continue
        text = path.read_text()
        for hunk in "\n".join(lines).split("\n@@\n"):
            changed = hunk.split("\n")
            old = "\n".join(line[1:] for line in changed if line[:1] in (" ", "-"))
            new = "\n".join(line[1:] for line in changed if line[:1] in (" ", "+"))
            if old:
                assert text.count(old) == 1, f"{path} holds {text.count(old)} times:\n{old}"
                text = text.replace(old, new)
            elif new.startswith("from "):
                text = text.replace("\nfrom aha", f"\n{new}\nfrom aha", 1)
            else:
                text += f"\n\n{new}\n"
        path.write_text(text)


@pytest.mark.slow
def test_the_worked_changes(tmp_path: Path) -> None:
    for name in ("src", "tests", "examples"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "ready")
        )
    for name in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    blocks = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        apply(block, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    tests = [
        "tests/tasks/test_modular.py", "tests/grpo/test_losses.py", "tests/rollout/test_engine.py",
        "tests/rewards/test_rewards.py", "tests/test_layers.py", "tests/test_recipe.py",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *tests],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    made = subprocess.run(
        [sys.executable, "-c", "from aha.rewards import load_reward; print(load_reward("
         "'brevity', max_length=4)(['p'], ['c'], completion_ids=[[1]]))"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout.strip() == "[0.75]"
