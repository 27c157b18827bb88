"""The sbatch script, run by bash with stand-ins for SLURM's programs and for `aha`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from programs import program
from typer.testing import CliRunner

from aha.cli.main import app
from aha.launch import SlurmRequest
from aha.launch.slurm import FINISHED, slurm_script
from aha.types import RunFailure, UserError

# A line each time: the program and its arguments, one a line, between two marks.
_RECORD = '{ echo "<$(basename "$0")"; printf "%s\\n" "$@"; echo ">"; } >>"$STUBS/calls"\n'
_STUBS = {
    "scontrol": '[ "$1" = requeue ] || printf "%s\\n" ${NODES:-n1}\n',
    # Drops srun's own options and runs the rest, as the first of the nodes.
    "srun": (
        'while [ "${1#--}" != "$1" ]; do shift; done\n'
        'SLURM_PROCID=0 exec "$@"\n'
    ),
    "apptainer": 'shift; while [ "${1#-}" != "$1" ]; do [ "$1" = --bind ] && shift; shift; done\n'
    'shift; exec "$@"\n',
    "aha": 'exec python3 "$STUBS/training.py" "$@"\n',
    "trl": "exec python3 -m http.server --bind 127.0.0.1 \"$7\"\n",
}  # fmt: skip
# A run that saves a checkpoint, or on USR1 saves and stops with 138; a second USR1 ends it unsaved.
_TRAINING = """
import os, pathlib, signal, sys, time
mode = os.environ.get("MODE", "done")
run = pathlib.Path(os.environ["RUN_DIR"])
count = 0
def warned(*_):
    global count
    count += 1
signal.signal(signal.SIGUSR1, warned)
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "recipe.yaml").touch()
pathlib.Path(os.environ["STUBS"], "ready").touch()
if mode == "wait":
    while not count:
        time.sleep(0.02)
    time.sleep(0.5)
    if count > 1:
        sys.exit(99)
if mode in ("wait", "done"):
    (run / "checkpoints" / f"step-{time.time_ns()}").mkdir()
sys.exit({"done": 0, "wait": 138, "unsaved": 138}.get(mode) if mode[0] in "dwu" else int(mode))
"""


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name, body in _STUBS.items():
        (folder / name).write_text(f"#!/bin/bash\n{_RECORD}{body}")
        (folder / name).chmod(0o755)
    (folder / "training.py").write_text(_TRAINING)
    return folder


def start(
    request: SlurmRequest, stubs: Path, run: Path, mode: str = "done", **more: str
) -> subprocess.Popen[str]:
    environment = {
        **os.environ, **more, "PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs),
        "MODE": mode, "RUN_DIR": str(run), "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "n[1-9]",
    }  # fmt: skip
    work = stubs.parent
    (work / "job.sh").write_text(slurm_script(request))
    (stubs / "calls").unlink(missing_ok=True)
    (stubs / "ready").unlink(missing_ok=True)
    return subprocess.Popen(
        ["bash", "job.sh"],
        cwd=work, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(*arguments: Any, **more: str) -> tuple[int, str]:
    process = start(*arguments, **more)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def calls_of(stubs: Path, program: str) -> list[str]:
    """Every call of a program, its arguments as one text."""
    text = (stubs / "calls").read_text() if (stubs / "calls").exists() else ""
    blocks = [block for block in text.split("\n>\n") if block.startswith(f"<{program}\n")]
    return [block.removeprefix(f"<{program}\n") for block in blocks]


def warn_when_ready(process: subprocess.Popen[str], stubs: Path, times: int = 1) -> tuple[int, str]:
    until = time.monotonic() + 30
    while not (stubs / "ready").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    for _ in range(times):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_a_new_run_begins_and_a_run_that_is_there_goes_on(stubs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    request = SlurmRequest("countdown-tiny", ["train.max_steps=3"], output=Path("run"))
    assert finish(request, stubs, run)[0] == 0
    begun = "train\ncountdown-tiny\n--output\nrun\n--set\ntrain.max_steps=3"
    assert calls_of(stubs, "aha") == [begun]
    (run / FINISHED).unlink()
    assert finish(request, stubs, run)[0] == 0
    assert calls_of(stubs, "aha") == ["train\n--resume\nrun\n--set\ntrain.max_steps=3"]


def test_a_finished_run_is_not_trained_again(stubs: Path, tmp_path: Path) -> None:
    request = SlurmRequest("countdown-tiny", output=Path("run"))
    assert finish(request, stubs, tmp_path / "run")[0] == 0
    code, output = finish(request, stubs, tmp_path / "run")
    assert (code, output) == (0, "run is finished: nothing to do\n")
    assert not (stubs / "calls").exists()


def test_the_default_folder_is_the_same_after_a_requeue(stubs: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "countdown-tiny-77"
    assert finish(SlurmRequest("countdown-tiny"), stubs, run)[0] == 0
    assert (run / FINISHED).exists()
    assert "--output\nruns/countdown-tiny-77" in calls_of(stubs, "aha")[0]


@pytest.mark.parametrize("times", [1, 3])
def test_a_warning_is_passed_on_once_and_requeues(stubs: Path, tmp_path: Path, times: int) -> None:
    request = SlurmRequest("countdown-tiny", output=Path("run"))
    process = start(request, stubs, tmp_path / "run", "wait")
    code, output = warn_when_ready(process, stubs, times)
    assert code == 138, output
    assert calls_of(stubs, "scontrol") == ["requeue\n77"]
    assert not (tmp_path / "run" / FINISHED).exists()


@pytest.mark.parametrize("code", ["1", "2", "3", "143"])
def test_other_ends_do_not_requeue(stubs: Path, tmp_path: Path, code: str) -> None:
    request = SlurmRequest("countdown-tiny", output=Path("run"))
    ended, output = finish(request, stubs, tmp_path / "run", code)
    assert str(ended) == code
    assert f"exit code {code}" in output
    assert calls_of(stubs, "scontrol") == []
    assert not (tmp_path / "run" / FINISHED).exists()


def test_a_stop_without_progress_does_not_requeue_for_ever(stubs: Path, tmp_path: Path) -> None:
    request = SlurmRequest("countdown-tiny", output=Path("run"))
    code, output = finish(request, stubs, tmp_path / "run", "unsaved")
    assert code == 138
    assert "not put back into the queue" in output
    assert calls_of(stubs, "scontrol") == []


def test_several_processes_start_through_the_launcher(
    stubs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = SlurmRequest(
        "countdown-tiny", ["train.max_steps=3"], output=Path("run"), nodes=2, gpus_per_node=4,
        engine="trl", strategy="fsdp2",
    )  # fmt: skip
    assert finish(request, stubs, tmp_path / "run", NODES="n1 n2")[0] == 0
    # 20000 + 77 * 2: the port comes from the job's number.
    started = calls_of(stubs, "aha")[0].split("\n")
    assert started == [
        "launch", "accelerate", "countdown-tiny", "--output", "run", "--set", "train.max_steps=3",
        "--processes", "8", "--nodes", "2", "--strategy", "fsdp2", "--head", "n1",
        "--port", "20154", "--folder", "run.launch", "--node-rank", "0",
    ]  # fmt: skip
    # The command line accepts them.
    monkeypatch.chdir(stubs)
    done = CliRunner().invoke(app, [*started, "--dry-run", "--cpu"])
    assert done.exit_code == 0, done.output
    srun = calls_of(stubs, "srun")
    assert len(srun) == 1
    assert "--nodelist=n1,n2" in srun[0]


def test_a_warning_reaches_the_processes_behind_the_launcher(stubs: Path, tmp_path: Path) -> None:
    request = SlurmRequest("countdown-tiny", output=Path("run"), gpus_per_node=2, engine="trl")
    process = start(request, stubs, tmp_path / "run", "wait")
    code, output = warn_when_ready(process, stubs)
    assert code == 138, output
    assert calls_of(stubs, "scontrol")[-1] == "requeue\n77"


def test_a_launcher_that_fails_unwarned_is_not_requeued(stubs: Path, tmp_path: Path) -> None:
    request = SlurmRequest("countdown-tiny", output=Path("run"), gpus_per_node=2, engine="trl")
    assert finish(request, stubs, tmp_path / "run", "1")[0] == 1
    assert "requeue" not in "".join(calls_of(stubs, "scontrol"))


def test_vllm_has_the_last_node_to_itself(stubs: Path, tmp_path: Path) -> None:
    model = "hub/$(touch pwned) 'name'"
    request = SlurmRequest(
        "countdown-tiny", [f"model.name={model}"], output=Path("run"), engine="trl", vllm_node=True
    )
    text = slurm_script(request)
    assert "#SBATCH --nodes=2\n" in text
    code, output = finish(request, stubs, tmp_path / "run", NODES="n1 localhost")
    assert code == 0, output
    serving, training = calls_of(stubs, "srun")
    assert f"--nodelist=localhost\ntrl\nvllm-serve\n--model\n{model}\n" in serving
    assert not list(tmp_path.rglob("pwned"))
    assert "--nodelist=n1\n" in training
    train = calls_of(stubs, "aha")[0]
    assert "--set\ntrl.vllm=server\n--set\ntrl.vllm_server_host=localhost\n" in train
    assert train.endswith("trl.vllm_server_port=20155")


HOSTILE = "it's $(touch pwned) `touch pwned` \"; touch pwned; # ${HOME}\ntouch pwned\n*"


def test_hostile_values_are_not_run(stubs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / f"{HOSTILE}.yaml"
    recipe.write_text("name: hostile\n")
    image = "my $(touch pwned) 'image'\ntouch pwned"
    request = SlurmRequest(
        str(recipe),
        [f"model.name={HOSTILE.replace(chr(10), ' ')}", "train.seed=1"],
        output=Path(HOSTILE),
        container=image,
    )
    code, output = finish(request, stubs, tmp_path / HOSTILE)
    assert code == 0, output
    assert not list(tmp_path.rglob("pwned"))
    train = calls_of(stubs, "aha")[0]
    assert train.startswith(f"train\n{recipe}\n--output\n{HOSTILE}\n--set\nmodel.name=it's $(touch")
    assert f"\n{image}\nbash\n-c\n" in calls_of(stubs, "apptainer")[0]


def test_setup_modules_and_resources_stand_in_the_script() -> None:
    request = SlurmRequest(
        "countdown-tiny", gpus_per_node=0, cpus_per_task=8, mem="64G", partition="short",
        account="lab-1", qos="high", time="1-02:03:04", module=("cuda/12.4",),
        setup=("source .venv/bin/activate",), signal_before=300,
    )  # fmt: skip
    lines = slurm_script(request).splitlines()
    for line in (
        "#SBATCH --job-name=aha-countdown-tiny", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=64G",
        "#SBATCH --partition=short", "#SBATCH --account=lab-1", "#SBATCH --qos=high",
        "#SBATCH --time=1-02:03:04", "#SBATCH --signal=B:USR1@300", "#SBATCH --requeue",
        "#SBATCH --open-mode=append", "export SRUN_CPUS_PER_TASK=8",
    ):  # fmt: skip
        assert line in lines
    assert not any("gpus" in line for line in lines)
    assert lines.index("module load cuda/12.4") < lines.index("source .venv/bin/activate")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time": "4h"}, "--time is '4h'; write it as hours:minutes:seconds"),
        ({"time": "04:60:00"}, "--time is '04:60:00'"),
        ({"time": "00:00:00"}, "--time is '00:00:00'"),
        ({"time": "01:00:00\n#SBATCH --wrap=x"}, "--time is"),
        ({"signal_before": 3600, "time": "01:00:00"}, "--signal-before is 3600; it must be less"),
        ({"signal_before": 65_535, "time": "99:00:00"}, "--signal-before is 65535"),
        ({"nodes": 2}, "the native engine is one process on one GPU"),
        ({"gpus_per_node": 8}, "makes 8 processes; the native engine"),
        (
            {
                "strategy": "fsdp2",
                "gpus_per_node": 2,
                "engine": "trl",
                "overrides": ["trl={vllm: colocate}"],
            },
            "'colocate' with --strategy fsdp2",
        ),
        ({"gpus_per_node": 0, "overrides": ["model.device=cuda"]}, "model.device is 'cuda'"),
        ({"container": ""}, "--container is ''"),
        ({"strategy": "zero3"}, "--strategy zero3 shares a model over processes"),
        ({"vllm_node": True}, "--vllm-node goes with --engine trl"),
        ({"vllm_node": True, "engine": "trl", "gpus_per_node": 0}, "a vLLM server needs a GPU"),
        ({"mem": "much"}, "--mem is 'much'"),
        ({"partition": "a b"}, "--partition is 'a b'; it must be a name."),
        ({"account": "x\n#SBATCH --wrap=y"}, "--account is"),
        ({"qos": "$(id)"}, "--qos is '$(id)'"),
        ({"module": ("a; id",)}, "--module is 'a; id'"),
        ({"setup": ("a\nb",)}, "--setup is 'a\\nb'; it must be one line"),
        ({"container": "--writable"}, "--container is '--writable'"),
        ({"engine": "trl", "gpus_per_node": 5}, "which 5 processes cannot share evenly"),
        ({"recipe": "nothing"}, "recipe 'nothing' is neither a file nor one of"),
        ({"overrides": ["train.max_steps=-1"]}, "train.max_steps is -1"),
        ({"overrides": ["rewards=[{name: acuracy}]"]}, "Did you mean 'accuracy'"),
    ],
)
def test_what_is_impossible_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        slurm_script(SlurmRequest(**{"recipe": "countdown-tiny", **changes}))
    assert said in str(caught.value)


REQUESTS = [
    SlurmRequest("countdown-tiny"),
    SlurmRequest("countdown-tiny", gpus_per_node=0, cpus_per_task=2, container="i.sif"),
    SlurmRequest("countdown-tiny", nodes=2, gpus_per_node=0, engine="trl"),
    SlurmRequest("countdown-tiny", nodes=4, gpus_per_node=8, engine="trl", vllm_node=True),
    SlurmRequest("countdown-tiny", engine="trl", vllm_node=True, output=Path("-a b"), setup=("x",)),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_every_form_is_bash(request_: SlurmRequest, tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(slurm_script(request_))
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # Directives after the first command would be ignored by sbatch.
    lines = path.read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


@pytest.mark.skipif(program("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("request_", REQUESTS)
def test_every_form_passes_shellcheck(request_: SlurmRequest, tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(slurm_script(request_))
    done = subprocess.run(
        [str(program("shellcheck")), "--severity=warning", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


SBATCH = """#!/bin/bash
cat >"$STUBS/submitted"
[ -z "$REFUSE" ] || { echo "bad  account" >&2; exit 1; }
echo "Submitted batch job 7"
"""


def invoke(*options: str) -> Any:
    return CliRunner().invoke(app, ["launch", "slurm", "countdown-tiny", *options])


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch, first on the path; what it was given lies in `submitted`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STUBS", str(tmp_path))
    monkeypatch.setenv("REFUSE", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "submitted"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--nodes", "0", "greater than or equal to 1"),
        ("--gpus-per-node", "-1", "greater than or equal to 0"),
        ("--cpus-per-task", "0", "greater than or equal to 1"),
        ("--signal-before", "0", "greater than or equal to 1"),
        ("--engine", "jax", "'native', 'trl'"),
    ],
)
def test_an_option_out_of_range_is_named(option: str, value: str, said: str) -> None:
    done = invoke(option, value)
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr
    assert said in done.stderr


def test_the_script_is_shown_and_nothing_else_happens(sbatch: Path, tmp_path: Path) -> None:
    done = invoke()
    assert (done.exit_code, done.stdout) == (0, slurm_script(SlurmRequest("countdown-tiny")))
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_file_is_written_once(sbatch: Path, tmp_path: Path) -> None:
    assert invoke("--file", "job.sh").exit_code == 0
    path = tmp_path / "job.sh"
    assert path.read_text() == slurm_script(SlurmRequest("countdown-tiny"))
    path.write_text("edited")
    again = invoke("--file", "job.sh")
    assert isinstance(again.exception, UserError)
    assert str(again.exception) == "--file: 'job.sh' exists; choose another name."
    assert path.read_text() == "edited"
    assert "cannot be written" in str(invoke("--file", "no/such/job.sh").exception)
    assert not sbatch.exists()


def test_submit_hands_the_script_to_sbatch(sbatch: Path) -> None:
    done = invoke("--submit")
    assert (done.exit_code, done.stdout) == (0, "Submitted batch job 7\n")
    assert sbatch.read_text() == slurm_script(SlurmRequest("countdown-tiny"))


def test_a_refusal_is_sbatch_s_own_words(sbatch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSE", "yes")
    error = invoke("--submit").exception
    assert isinstance(error, RunFailure)
    assert str(error) == "sbatch refused the job: bad account"


def test_submit_without_sbatch_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    error = invoke("--submit", "--file", "job.sh").exception
    assert isinstance(error, UserError)
    assert str(error).startswith("--submit needs sbatch")
    assert not (tmp_path / "job.sh").exists()


def test_a_run_that_is_there_is_announced(sbatch: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "recipe.yaml").touch()
    assert "old holds a run already" in invoke("--output", "old").stderr
    assert invoke("--output", "new").stderr == ""
