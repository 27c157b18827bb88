from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aha.cli.main import _with_resume_value, app
from command_line import aha, aha_here


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom aha.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'aha.recipe'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


COMMANDS = [
    "", "train", "eval", "report", "samples", "export", "play", "doctor", "recipes", "tasks",
    "bench", "data", "data show", "data prepare", "data harness", "rewards", "rewards try",
    "launch", "launch accelerate", "launch slurm", "launch sagemaker",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_h_is_help(command: str) -> None:
    runner = CliRunner()
    short, long = (runner.invoke(app, [*command.split(), flag]) for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("aha train gsm", ["gsm8k-r1-1.5b", "gsm8k-xml-0.5b"]),
        ("aha launch slurm r1", ["r1-zero-7b"]),
        ("aha doctor mini-r1-3", ["mini-r1-3b"]),
        ("aha train --task nu", ["numina-math-tir"]),
        ("aha train --rewards accuracy,soft", ["accuracy,soft_format", "accuracy,soft_overlong"]),
        ("aha rewards try eq", ["equation"]),
        # The shell itself completes a file's name.
        ("aha train ./mine", []),
    ],
)
def test_names_are_completed(typed: str, offered: list[str]) -> None:
    place = str(len(typed.split()) - 1)
    done = aha(_AHA_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=place)
    assert done.stdout.split() == offered


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--set", "max_steps=3"], ["'max_steps'", "Did you mean 'train.max_steps'?"]),
        (["train", "gsm8k-r1-1.5"], ["Did you mean 'gsm8k-r1-1.5b'?"]),
        (["train", "--rewards", "acuracy"], ["Did you mean 'accuracy'?"]),
        (["train", "--task", "gsm8"], ["Did you mean 'gsm8k'?"]),
        (["train", "--model", "aha-tyni"], ["Did you mean 'aha-tiny'?"]),
        (["train", "--max-steps", "many"], ["train.max_steps", "'many'", "integer"]),
        (["train", "--learning-rate", "-1"], ["optimizer.learning_rate", "greater than 0"]),
        (["train", "--rewards", "accuracy,beauty"], ["'beauty'", "allowed are accuracy"]),
        (["train", "--report-to", "paper"], ["logging.report_to", "'paper'", "'tensorboard'"]),
        (["train", "--task", "chess"], ["task.name", "'chess'", "'countdown'"]),
        (["train", "--set", "nope.x=1"], ["'nope'", "not a known key"]),
        (["train", "--model", "./nowhere"], ["model.name", "'./nowhere'", "does not exist"]),
        (["train", "--model", "nowhere"], ["model.name", "'nowhere'", "does not exist"]),
        (["train", "no-such-recipe"], ["'no-such-recipe'", "countdown-tiny"]),
        (["train", "--resume"], ["no run under 'runs'"]),
        (["train", "gsm8k-r1-1.5b", "--resume", "x"], ["--resume", "no recipe"]),
        (["train", "--resume", "x", "--max-steps", "3"], ["'x'", "not a run directory"]),
        (["train", ""], ["recipe ''", "countdown-tiny"]),
        (["train", "~no-one-here/mine.yaml"], ["'~no-one-here/mine.yaml'", "neither a file"]),
        (["train", "--model", "~no-one-here/x"], ["'~no-one-here/x'", "does not exist"]),
        (["train", "--model", "123"], ["model.name", "'123'", "does not exist"]),
        (["train", "--output", ""], ["--output is empty"]),
        (["train", "--resume="], ["--resume is empty"]),
        (["train", "--rewards", "accuracy,"], ["rewards: '' is unknown"]),
        (["train", "--rewards", "mine.py:"], ["no file 'mine.py'"]),
        (["train", "--rewards", "no.such:f"], ["'no.such' cannot be imported"]),
        (["doctor", "countdown-tiny", "--memory", "inf"], ["--memory", "less than or equal"]),
        (
            [
                "data",
                "prepare",
                "countdown-tiny",
                "--output",
                "x",
                "--decontaminate",
                "no.jsonl",
                "--set",
                "task.num_train=5",
            ],
            ["--decontaminate 'no.jsonl': there is no file"],
        ),
        (["bench", "--json", "/"], ["--json", "'/'", "must be a file"]),
        (["bench", "--after", "nowhere"], ["'nowhere'", "does not exist"]),
        (["train", "--allow-change"], ["--allow-change", "--resume"]),
        (["report", "nowhere"], ["'nowhere'", "not a run directory"]),
        (["report", "x", "--figure", "x.txt"], ["not a run directory"]),
        (["data", "show", "--split", "all"], ["--split", "'all'", "'train', 'test'"]),
        (["train", "--max-step", "3"], ["--max-step", "--max-steps"]),
        (["train", "one", "two"], ["unexpected", "two"]),
        (["tarin"], ["tarin"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = aha_here(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_mistake_ends_the_process_with_its_code(tmp_path: Path) -> None:
    done = aha("train", "--max-steps", "many", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_an_unreachable_hub_is_said_at_once(tmp_path: Path) -> None:
    code = (
        "import os\nos.environ['HF_ENDPOINT'] = 'http://127.0.0.1:9'\n"
        "from aha.cli.main import main\nmain(['train', '--model', 'no-one/no-model'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    assert "'no-one/no-model'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    done = aha_here("train", "--output", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert (tmp_path / "recipe.yaml").read_text() == "name: mine\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["train", "--resume"], ["train", "--resume", "latest"]),
        (["train", "--resume", "--dry-run"], ["train", "--resume", "latest", "--dry-run"]),
        (["train", "--resume", "runs/x"], ["train", "--resume", "runs/x"]),
    ],
)
def test_resume_may_stand_without_a_folder(given: list[str], expected: list[str]) -> None:
    assert _with_resume_value(given) == expected


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow, id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, id="term"),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow, id="usr1"),
    ],
)
def test_a_signal_saves_and_has_its_own_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "aha.cli.main",
            "train",
            "--output",
            "run",
            "--set",
            "evaluation.n=0",
            "--set",
            "logging.logging_steps=1",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore interrupts, and their children would inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    while "step 2/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped by {number.name} after saving; go on with --resume run" in errors
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    steps = (tmp_path / "run" / "metrics.jsonl").read_text().count("\n")
    assert checkpoint.name == f"step-{steps:06d}"


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ndef slow(completions, **kwargs):\n"
        "    if len(completions) > 1:\n"  # one is the trial before the start
        "        print('in reward', flush=True)\n        time.sleep(50)\n"
        "    return [0.0] * len(completions)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "aha.cli.main", "train", "--output", "run",
         "--set", "evaluation.n=0", "--rewards", "slow.py:slow"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    while "in reward" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    # By two ways at once: one request.
    process.send_signal(signal.SIGTERM)
    time.sleep(2.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 143
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    done = aha_here("eval", "x" * 300, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 'xxx")
    assert "Traceback" not in done.stderr


def test_a_mistake_in_the_data_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"target": 1}\n')
    done = aha_here("train", "--set", "task.source=rows.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [["train"], ["train", "--dry-run"]])
def test_a_faulty_reward_is_named_with_its_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def crash(completions, **kwargs):\n    return [c['x'] for c in completions]\n"
    )
    done = aha_here(*command, "--rewards", "mine.py:crash", cwd=tmp_path)
    assert done.returncode == 2
    assert "reward 'crash' raised TypeError" in done.stderr
    assert "mine.py, line 2" in done.stderr
    assert "'target': 38" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    (tmp_path / "text.txt").write_text("x")
    done = aha_here("rewards", "try", "mine.py:crash", "--completion", "text.txt", cwd=tmp_path)
    assert done.returncode == 2
    assert "raised TypeError" in done.stderr


def test_dry_run_shows_recipe_prompt_and_needs(tmp_path: Path) -> None:
    done = aha_here("train", "--dry-run", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in done.stdout
    assert "Make 38 from 16 5 17 . <think>" in done.stdout
    assert "0.72 M parameters" in done.stdout
    assert not list(tmp_path.iterdir())


def test_lists(tmp_path: Path) -> None:
    assert "countdown-tiny" in aha_here("recipes", cwd=tmp_path).stdout
    assert "length_penalty" in aha_here("rewards", cwd=tmp_path).stdout
    shown = aha_here("data", "show", "--n", "2", cwd=tmp_path).stdout
    assert shown.count("<think>") == 2
