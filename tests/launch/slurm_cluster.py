"""A SLURM cluster of this one machine, with its own keys, state and ports, for as long as a test.

Several nodes are several slurmd of this machine; only the first one's name is in the host tables.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ports import free_ports

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={controller}
AuthType=auth/munge
# A requeued job waits for as long as credentials last; by default two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# Neither control groups nor a service manager are needed for one machine.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/linear
ReturnToService=2
KillWait=20
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=30
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "slurmd needs root"
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(absent)} (slurm-wlm, munge)" if absent else ""


@dataclass
class Cluster:
    """The running daemons; `environment` points the clients at them."""

    folder: Path
    environment: dict[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """A job as the controller knows it, such as JobState, Restarts and ExitCode."""
        text = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(part.split("=", 1) for part in text.split() if "=" in part)

    def wait(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < until, f"{what} not within {seconds:.0f} s\n{self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files)


def start(folder: Path, nodes: int = 1) -> Cluster:
    """A cluster under `folder` that is ready for jobs. Errors: AssertionError with its logs."""
    folder.chmod(0o755)
    host = socket.gethostname()
    names = [host if index == 0 else f"{host}-{index + 1}" for index in range(nodes)]
    for name in ("state", *(f"spool-{name}" for name in names)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(_configuration(folder, host, names))
    path = f"{os.environ['PATH']}:/usr/sbin"
    cluster = Cluster(folder, {**os.environ, "PATH": path, "SLURM_CONF": str(configuration)})
    try:
        _spawn(
            cluster, "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
            f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log",
        )  # fmt: skip
        cluster.wait("munge", (folder / "munge.socket").exists, 20)
        _spawn(cluster, "slurmctld", "-D")
        for name in names:
            _spawn(cluster, "slurmd", "-D", "-N", name)
        cluster.wait("idle nodes", lambda: _idle(cluster), 60)
    except BaseException:
        stop(cluster)
        raise
    return cluster


def _configuration(folder: Path, host: str, names: list[str]) -> str:
    controller, *ports = free_ports(1 + len(names))
    cores = max(1, (os.cpu_count() or 1) // len(names))
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores}"
        for name, port in zip(names, ports, strict=True)
    ]
    return _CONFIGURATION.format(
        host=host, controller=controller, folder=folder, nodes="\n".join(nodes)
    )


def stop(cluster: Cluster) -> None:
    """End every job and daemon of the cluster, by process id."""
    if len(cluster.daemons) >= len(DAEMONS):
        _try(cluster, "scancel", "--full", "--signal=KILL", "--user=root")
        _try(cluster, "scancel", "--user=root")
        until = time.monotonic() + 60
        while _try(cluster, "squeue", "--noheader") and time.monotonic() < until:
            time.sleep(0.5)
    for daemon in reversed(cluster.daemons):
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _try(cluster: Cluster, *command: str) -> str:
    """A client's output, or nothing while the cluster starts or stops."""
    return subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, check=False, timeout=60
    ).stdout.strip()


def _spawn(cluster: Cluster, *command: str) -> None:
    log = cluster.folder / f"{command[0]}-{len(cluster.daemons)}.out.log"
    with log.open("wb") as output:
        cluster.daemons.append(
            subprocess.Popen(
                command, env=cluster.environment, stdout=output, stderr=subprocess.STDOUT
            )
        )


def _idle(cluster: Cluster) -> bool:
    return set(_try(cluster, "sinfo", "--noheader", "--format=%T").split()) == {"idle"}
