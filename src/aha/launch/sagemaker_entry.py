"""The program in SageMaker's container: it installs aha, trains or resumes, and exports the model.

`aha launch sagemaker` copies this file beside the recipe, and the container runs it alone, so it
imports only the standard library. As SageMaker's training toolkit it reads SM_* variables if they
are set, else the files under /opt/ml, or under SAGEMAKER_BASE_DIR.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_BASE = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
_PORT = 29500
_AHA = [sys.executable, "-m", "aha.cli.main"]
# aha's exit code when SIGTERM stopped it after saving; the job starts again or was meant to stop.
_STOPPED = 143
# The files of the run that go into output.tar.gz.
_RECORDS = ("recipe.yaml", "environment.json", "metrics.jsonl", "eval.json", "report.html")


class Job:
    """The job that this container was started for: folders, machines, recipe keys with values."""

    def __init__(self) -> None:
        config = _BASE / "input" / "config"
        settings = _json("SM_HPS", config / "hyperparameters.json")
        resources = _json("SM_RESOURCE_CONFIG", config / "resourceconfig.json")
        self.code = Path(os.environ.get("SM_CHANNEL_CODE", _BASE / "input" / "data" / "code"))
        self.run = _BASE / "checkpoints" / "run"
        self.model = Path(os.environ.get("SM_MODEL_DIR", _BASE / "model"))
        self.output = Path(os.environ.get("SM_OUTPUT_DATA_DIR", _BASE / "output" / "data"))
        self.hosts: list[str] = sorted(resources["hosts"])
        self.host: str = resources["current_host"]
        self.gpus = _gpus()
        self.settings = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in settings.items()
            if not key.startswith("sagemaker_")
        }
        # One process for the native engine; for TRL one a GPU, on every machine.
        native = self.settings.get("engine", "native") == "native"
        self.processes = 1 if native else len(self.hosts) * max(1, self.gpus)


def _json(variable: str, path: Path) -> dict[str, Any]:
    text = os.environ.get(variable) or path.read_text(encoding="utf-8")
    return dict(json.loads(text))


def _gpus() -> int:
    """The number of GPUs of this machine."""
    if "SM_NUM_GPUS" in os.environ:
        return int(os.environ["SM_NUM_GPUS"])
    if shutil.which("nvidia-smi") is None:
        return 0
    command = ["nvidia-smi", "--list-gpus"]
    listed = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    return len(listed.stdout.splitlines())


def train_command(job: Job) -> list[str]:
    """The command that begins the run, or resumes the one in its folder."""
    if (job.run / "recipe.yaml").exists():
        train = ["--resume", str(job.run)]
    else:
        train = ["recipe.yaml", "--output", str(job.run)]
    # S3 and SageMaker keep no order; a section must come before its keys.
    for key, value in sorted(job.settings.items()):
        train += ["--set", f"{key}={value}"]
    if job.processes == 1:
        return [*_AHA, "train", *train]
    return [
        *_AHA, "launch", "accelerate", *train,
        "--processes", str(job.processes), "--nodes", str(len(job.hosts)),
        "--node-rank", str(job.hosts.index(job.host)),
        "--head", job.hosts[0], "--port", str(_PORT),
        "--strategy", os.environ.get("AHA_STRATEGY", "ddp"),
        "--folder", str(job.run.with_name("launch")),
    ]  # fmt: skip


def export(job: Job) -> int:
    """Export the model into SageMaker's model folder, and copy the records; the exit code.

    The model's files are at the top of model.tar.gz, as SageMaker's endpoints expect them.
    """
    folder = job.model / "exported"
    code = run([*_AHA, "export", str(job.run), str(folder)], job.code)
    if code == 0:
        for path in sorted(folder.iterdir()):
            os.replace(path, job.model / path.name)
        folder.rmdir()
        job.output.mkdir(parents=True, exist_ok=True)
        for name in _RECORDS:
            if (job.run / name).exists():
                shutil.copy(job.run / name, job.output / name)
    return code


def run(command: list[str], folder: Path) -> int:
    """Run a command; its exit code. SIGTERM, SageMaker's request to stop, is passed on to it."""
    process = subprocess.Popen(command, cwd=folder)  # noqa: S603

    def hand_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    """Train and export; the exit code. SageMaker shows the text in the file `failure`."""
    job = Job()
    job.model.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[str, Callable[[], int]]] = []
    if os.environ.get("AHA_SAGEMAKER_INSTALL") != "0":
        # aha and its extras, as pinned; quick if the image has them.
        install = [sys.executable, "-m", "pip", "install", "--no-input", "-r", "requirements.txt"]
        steps.append(("pip install", lambda: run(install, job.code)))
    steps.append(("aha train", lambda: run(train_command(job), job.code)))
    if job.host == job.hosts[0]:
        steps.append(("aha export", lambda: export(job)))
    for name, step in steps:
        code = step()
        if code == _STOPPED:
            return code
        if code:
            reason = f"{name} ended with exit code {code}; the job's log says why."
            (_BASE / "output").mkdir(parents=True, exist_ok=True)
            (_BASE / "output" / "failure").write_text(reason, encoding="utf-8")
            print(reason, file=sys.stderr)
            return code if code > 0 else 128 - code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
