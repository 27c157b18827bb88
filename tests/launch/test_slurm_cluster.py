"""The generated script in a real SLURM: it trains, is warned, saves, requeues, resumes and ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import Cluster

ABSENT = slurm_cluster.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(ABSENT), reason=ABSENT)]

# Quick steps and a small evaluation; the run's name has a space on purpose.
RUN = "my run"
SMALL = (
    "evaluation.n=8",
    "grpo.prompts_per_step=4",
    "train.save_steps=1000",
    "logging.report_to=[]",
)


@contextmanager
def cluster_of(nodes: int, folder: Path) -> Iterator[Cluster]:
    try:
        cluster = slurm_cluster.start(folder, nodes)
    except AssertionError as error:
        pytest.skip(f"SLURM does not start here: {str(error)[:500]}")
    try:
        yield cluster
    finally:
        slurm_cluster.stop(cluster)


def submit(cluster: Cluster, folder: Path, steps: int, *options: str) -> str:
    """Submit a small run with the command itself; the job's number."""
    settings = [f"--set={setting}" for setting in (*SMALL, f"train.max_steps={steps}")]
    said = cluster.run(
        sys.executable, "-m", "aha.cli.main", "launch", "slurm", "countdown-tiny", *settings,
        "--gpus-per-node", "0", "--output", RUN, "--submit", *options,
        "--setup", f"export PATH={Path(sys.executable).parent}:$PATH OMP_NUM_THREADS=1",
        cwd=folder,
    )  # fmt: skip
    assert said.startswith("Submitted batch job ")
    return said.split()[-1]


def steps_of(folder: Path) -> list[int]:
    path = folder / RUN / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines]


def has_steps(folder: Path, count: int) -> bool:
    path = folder / RUN / "metrics.jsonl"
    return path.exists() and path.read_text().count("\n") >= count


def wait_for_end(cluster: Cluster, job: str, seconds: float) -> None:
    ended = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")
    cluster.wait("the job's end", lambda: cluster.job(job)["JobState"] in ended, seconds)


def log_of(folder: Path, job: str) -> str:
    return (folder / f"aha-countdown-tiny-{job}.log").read_text()


def finished_before(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted((folder / RUN).rglob("*")) if p.is_file()}


def test_a_warned_job_goes_on_and_a_finished_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    with cluster_of(1, tmp_path / "cluster") as cluster:
        job = submit(cluster, work, 12, "--time", "00:20:00")
        cluster.wait("two steps", lambda: has_steps(work, 2), 120)
        cluster.run("scancel", "--batch", "--signal=USR1", job)
        wait_for_end(cluster, job, 240)
        state = cluster.job(job)
        assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log_of(work, job)
        assert steps_of(work) == list(range(1, 13))
        log = log_of(work, job)
        assert log.count("stopped by SIGUSR1 after saving") == 1
        assert "from the checkpoint of step" in log
        before = finished_before(work)
        cluster.run("scontrol", "requeue", job)
        cluster.wait("a second start", lambda: "nothing to do" in log_of(work, job), 60)
        wait_for_end(cluster, job, 60)
        assert cluster.job(job)["JobState"] == "COMPLETED"
        assert finished_before(work) == before


def test_a_job_that_is_asked_to_end_saves_and_stays_ended(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    with cluster_of(1, tmp_path / "cluster") as cluster:
        job = submit(cluster, work, 500, "--time", "00:20:00")
        cluster.wait("two steps", lambda: has_steps(work, 2), 120)
        cluster.run("scancel", "--signal=TERM", job)
        wait_for_end(cluster, job, 60)
        state = cluster.job(job)
        assert (state["JobState"], state["Restarts"]) == ("FAILED", "0"), log_of(work, job)
        assert state["ExitCode"] == "143:0"
    assert "stopped by SIGTERM after saving" in log_of(work, job)
    assert len(list((work / RUN / "checkpoints").iterdir())) == 1
    assert steps_of(work) == list(range(1, len(steps_of(work)) + 1))


def test_the_time_limit_itself_warns(tmp_path: Path) -> None:
    """SLURM warns up to a minute early and looks every half minute, so this takes minutes."""
    (tmp_path / "cluster").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    with cluster_of(1, tmp_path / "cluster") as cluster:
        job = submit(cluster, work, 2000, "--time", "00:02:00", "--signal-before", "30")
        cluster.wait("a requeue", lambda: cluster.job(job)["Restarts"] == "1", 150)
        log = log_of(work, job)
        assert "stopped by SIGUSR1 after saving" in log
        done = len(steps_of(work))
        cluster.wait("steps of the second start", lambda: has_steps(work, done + 2), 120)
        assert "from the checkpoint of step" in log_of(work, job)
    steps = steps_of(work)
    assert steps == list(range(1, len(steps) + 1))


def test_two_nodes_are_warned_and_go_on_together(tmp_path: Path) -> None:
    pytest.importorskip("trl.trainer")
    (tmp_path / "cluster").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    with cluster_of(2, tmp_path / "cluster") as cluster:
        job = submit(cluster, work, 6, "--nodes", "2", "--engine", "trl", "--time", "00:20:00")
        cluster.wait("two steps", lambda: has_steps(work, 2), 240)
        cluster.run("scancel", "--batch", "--signal=USR1", job)
        wait_for_end(cluster, job, 400)
        state = cluster.job(job)
        assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log_of(work, job)
        assert state["NumNodes"] == "2"
        assert "Traceback" not in log_of(work, job)
    assert steps_of(work) == list(range(1, 7))
