"""`aha play` as a person runs it: options, a pipe, and mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aha.cli.main import app, main
from aha.play import play
from aha.types import UserError
from command_line import aha


def test_out_of_the_box_it_plays_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["play", "--problem", "15 from 3 13 5", "--seed", "1"]
    once, again = (CliRunner().invoke(app, arguments).output.splitlines() for _ in range(2))
    assert once[0] == "Make 15 from 3 13 5"
    assert once[2].startswith("aha-tiny, ")
    assert "strict" in once[-1]
    assert once[3:] == again[3:]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_latest_run_plays_beside_it(run_folder: Path) -> None:
    typed = "15 from 3 13 5\nnothing\n\xff\n\n:n 2\n:again\n"
    done = aha("play", cwd=run_folder.parents[1], typed=typed)
    assert done.returncode == 2
    assert done.stdout.count("mine (step-000003), ") == 3
    assert done.stdout.count("aha-tiny, ") == 3
    first, second, last = done.stderr.strip().splitlines()
    assert first.startswith("line 2: the problem 'nothing' is no Countdown problem")
    assert second.startswith("line 3: ")
    assert last == "error: 2 lines of the input could not be played; see above."


def test_options_reach_the_game(run_folder: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["play", str(run_folder), "--problem", "15 from 3 13 5", "--samples", "3",
         "--temperature", "0", "--max-tokens", "9", "--against", "none",
         "--set", "task.target_max=50"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "aha-tiny" not in result.output
    assert result.output.count("cut off, 9 tokens: there is no answer block") == 3
    assert "mine (step-000003): 0 of 3 right, 9 tokens" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--problem", "hello"], ["'hello' is no Countdown problem", "15 from 3 13 5"]),
        (["--problem", ""], ["problem is empty"]),
        (["--problem", "1 from 2 500"], ["'1 from 2 500'", "no token"]),
        (["--problem", "1 from 2 3", "--max-tokens", "2000"], ["--max-tokens is 2,000", "1,024"]),
        (["nowhere"], ["'nowhere'", "--recipe"]),
        (["--against", "./nowhere"], ["'./nowhere' does not exist"]),
        (["--recipe", "nope"], ["'nope'", "countdown-tiny"]),
        (["--set", "nope=1"], ["'nope'", "not a known key"]),
        (["--samples", "65"], ["--samples", "64"]),
        (["--temperature", "nan"], ["--temperature", "0"]),
        (["--temperature", "inf"], ["temperature is inf"]),
        (["--pace", "inf"], ["pace is inf"]),
        (["--port", "1"], ["--port goes with --web"]),
        (["--web", "--problem", "1 from 2 3"], ["--problem plays in the terminal"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["play", *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert all(word in said for word in words), said


def test_without_gradio_web_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--web needs gradio.*pip install 'aha-zero\[web\]'"):
        play(web=True)


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom aha.cli.main import main\n"
        "try:\n    main(['play', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'gradio', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
