"""The container's entry point: as a module with stand-ins, and as `--local` runs it, for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from aha.launch import SageMakerRequest, sagemaker_entry
from aha.launch.sagemaker import local_command

SMALL = ("evaluation.n=8", "grpo.prompts_per_step=2", "logging.report_to=[]")


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module with a folder in place of /opt/ml, laid out as SageMaker does."""
    monkeypatch.setattr(sagemaker_entry, "_BASE", tmp_path)
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(
        '{"lora.r": "4", "lora": "{}", "sagemaker_region": "eu-west-1", "engine": "native"}'
    )
    (config / "resourceconfig.json").write_text(
        '{"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}'
    )
    for name in [key for key in os.environ if key.startswith("SM_")]:
        monkeypatch.delenv(name)
    return sagemaker_entry


def test_a_bare_container_is_read_from_its_files(entry: ModuleType, tmp_path: Path) -> None:
    job = entry.Job()
    assert job.code == tmp_path / "input" / "data" / "code"
    assert (job.run, job.model) == (tmp_path / "checkpoints" / "run", tmp_path / "model")
    assert (job.host, job.hosts) == ("algo-2", ["algo-1", "algo-2"])
    assert job.settings == {"lora.r": "4", "lora": "{}", "engine": "native"}
    # A section comes before its keys, whatever the order of the file.
    assert entry.train_command(job)[1:] == [
        "-m", "aha.cli.main", "train", "recipe.yaml", "--output", str(job.run),
        "--set", "engine=native", "--set", "lora={}", "--set", "lora.r=4",
    ]  # fmt: skip


def test_the_toolkit_s_variables_come_first(
    entry: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_MODEL_DIR", "/m")
    monkeypatch.setenv("SM_CHANNEL_CODE", "/c")
    monkeypatch.setenv("SM_NUM_GPUS", "4")
    # The toolkit turns hyper-parameters into JSON values.
    monkeypatch.setenv("SM_HPS", '{"train.max_steps": 3, "engine": "native"}')
    job = entry.Job()
    assert (job.model, job.code, job.gpus) == (Path("/m"), Path("/c"), 4)
    assert job.settings == {"train.max_steps": "3", "engine": "native"}
    assert job.processes == 1


def test_a_run_that_came_back_from_s3_goes_on(entry: ModuleType) -> None:
    job = entry.Job()
    job.run.mkdir(parents=True)
    (job.run / "recipe.yaml").touch()
    assert entry.train_command(job)[3:6] == ["train", "--resume", str(job.run)]


def test_several_machines_meet_at_the_first(
    entry: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_NUM_GPUS", "8")
    monkeypatch.setenv("SM_HPS", '{"engine": "trl"}')
    monkeypatch.setenv("AHA_STRATEGY", "zero3")
    command = entry.train_command(entry.Job())
    assert command[1:] == [
        "-m", "aha.cli.main", "launch", "accelerate", "recipe.yaml", "--output", command[7],
        "--set", "engine=trl",
        "--processes", "16", "--nodes", "2", "--node-rank", "1",
        "--head", "algo-1", "--port", "29500", "--strategy", "zero3", "--folder", command[-1],
    ]  # fmt: skip


def test_a_failure_says_why_where_sagemaker_looks(
    entry: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = []

    def fails(command: list[str], folder: Path) -> int:
        ran.append(command)
        return 2

    monkeypatch.setattr(entry, "run", fails)
    assert entry.main() == 2
    assert [command[1:3] for command in ran] == [["-m", "pip"]]
    failure = (tmp_path / "output" / "failure").read_text()
    assert failure == "pip install ended with exit code 2; the job's log says why."


def test_only_the_first_machine_exports(entry: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(entry, "run", lambda command, folder: ran.append(command) or 0)
    assert entry.main() == 0
    assert [command[3] for command in ran] == ["install", "train"]


def start_local(folder: Path, *settings: str) -> subprocess.Popen[str]:
    request = SageMakerRequest("countdown-tiny", [*SMALL, *settings])
    command, environment = local_command(request, folder)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def steps_of(folder: Path) -> list[int]:
    lines = (folder / "checkpoints" / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.slow
def test_an_interrupted_job_goes_on_and_exports(tmp_path: Path) -> None:
    """SIGTERM is what SageMaker sends to a container whose spot machine it loses."""
    folder = tmp_path / "ml"
    first = start_local(folder, "train.max_steps=8")
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("step 1/"):
            break
    first.send_signal(signal.SIGTERM)
    rest, _ = first.communicate(timeout=120)
    assert first.returncode == 143, rest
    assert "stopped by SIGTERM after saving" in rest
    assert not (folder / "output" / "failure").exists()
    done = steps_of(folder)
    assert done == list(range(1, len(done) + 1))
    assert len(done) < 8

    second = start_local(folder, "train.max_steps=8")
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    assert f"from the checkpoint of step {len(done)}" in output
    assert steps_of(folder) == list(range(1, 9))
    assert (folder / "model" / "config.json").is_file()
    assert (folder / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_command_runs_the_entry_point_itself(tmp_path: Path) -> None:
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "aha.cli.main", "launch", "sagemaker", "countdown-tiny", "--local",
         "--folder", str(tmp_path / "ml"), "--set", "train.max_steps=1",
         *[f"--set={setting}" for setting in SMALL]],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert steps_of(tmp_path / "ml") == [1]
    weights = tmp_path / "ml" / "model" / "model.safetensors"
    assert weights.stat().st_mtime >= started - 1
    assert not (tmp_path / "ml" / "model" / "exported").exists()
    assert (tmp_path / "ml" / "output" / "data" / "report.html").is_file()
    assert not (tmp_path / "ml" / "output" / "failure").exists()
