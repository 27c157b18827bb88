"""`aha launch accelerate` refuses and writes the right things, without starting anything."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from aha.launch import AccelerateRequest, accelerate
from aha.launch.accelerate import check_layout, check_together, launch
from aha.recipe import dump_recipe, load_recipe
from aha.types import UserError
from aha.visible import text_template

DEEPSPEED = pytest.mark.skipif(
    accelerate.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


def layout(processes: int, strategy: str = "ddp", **more: Any) -> AccelerateRequest:
    return AccelerateRequest("countdown-tiny", processes, strategy, **more)  # type: ignore[arg-type]


def sees(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("request_", "gpus", "words"),
    [
        (layout(3, nodes=2), 8, r"--processes is 3 in all; on 2 nodes it must be a multiple of 2"),
        (layout(2, nodes=2, node_rank=2), 8, r"--node-rank is 2 of 2 nodes; allowed are 0 to 1"),
        (layout(2), 1, r"--processes 2 needs 2 GPUs on this node, which sees 1"),
        (layout(2, vllm="server"), 2, r"needs 2 GPUs and 1 for vLLM on this node, which sees 2"),
        (layout(2, vllm="colocate", cpu=True), 0, r"--vllm is 'colocate'; without a GPU"),
    ],
)
def test_the_impossible_is_one_sentence(
    request_: AccelerateRequest, gpus: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(gpus, monkeypatch)
    with pytest.raises(UserError, match=words):
        check_layout(request_)


@pytest.mark.parametrize(
    ("request_", "gpus"),
    [
        (layout(4, nodes=2, node_rank=1), 2),
        (layout(3, vllm="server"), 4),
        # The server stands on the head alone.
        (layout(4, nodes=2, node_rank=1, vllm="server", vllm_gpus=2), 2),
        (layout(2, cpu=True), 0),
    ],
)
def test_what_fits_passes(
    request_: AccelerateRequest, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(gpus, monkeypatch)
    check_layout(request_)


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_accelerate_reads_the_file(strategy: str, tmp_path: Path) -> None:
    request = layout(4, strategy, nodes=2, node_rank=1, head="10.0.0.1", port=29501)
    file = tmp_path / "accelerate.yaml"
    file.write_text(text_template("aha.launch", "accelerate.yaml.j2").render(request=request))
    read = load_config_from_file(str(file))
    assert (read.num_processes, read.num_machines, read.machine_rank) == (4, 2, 1)
    assert (read.main_process_ip, read.main_process_port) == ("10.0.0.1", 29501)
    assert read.distributed_type.value == ("FSDP" if strategy == "fsdp2" else "MULTI_GPU")
    assert (read.mixed_precision, read.use_cpu) == ("no", not torch.cuda.is_available())


@pytest.mark.parametrize(("given", "nodes", "used"), [(0, 1, 0), (0, 2, 29500), (7, 2, 7)])
def test_several_nodes_meet_at_a_known_port(given: int, nodes: int, used: int) -> None:
    assert layout(2, nodes=nodes, port=given).head_port == used


def test_zero_stages() -> None:
    template = text_template("aha.launch", "deepspeed.json.j2")
    two, three = (json.loads(template.render(request=layout(2, f"zero{n}"))) for n in (2, 3))
    assert two["zero_optimization"]["stage"] == 2
    assert three["zero_optimization"]["stage"] == 3
    assert three["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
    assert two["bf16"] == {"enabled": "auto"}


def test_without_zero_there_is_no_deepspeed_file(tmp_path: Path) -> None:
    dry_run(tmp_path, layout(2, cpu=True, folder=tmp_path / "f", dry_run=True))
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"accelerate.yaml", "launch.sh"}


def dry_run(tmp_path: Path, request: AccelerateRequest) -> list[str]:
    said: list[str] = []
    assert launch(request, said.append) == 0
    return said


def test_the_files_and_the_command_are_shown(tmp_path: Path) -> None:
    hostile = "logging.project=a b; touch /tmp/never $(id)"
    request = layout(
        2, "zero2", cpu=True, overrides=[hostile], output=tmp_path / "my run",
        folder=tmp_path / "f", dry_run=True,
    )  # fmt: skip
    if accelerate.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    said = dry_run(tmp_path, request)
    assert "192 completions a step on 2 processes" in said[0]
    assert {path.name for path in (tmp_path / "f").iterdir()} == {
        "accelerate.yaml", "deepspeed.json", "launch.sh"
    }  # fmt: skip
    assert (
        json.loads((tmp_path / "f" / "deepspeed.json").read_text())["gradient_clipping"] == "auto"
    )
    script = (tmp_path / "f" / "launch.sh").read_text()
    words = shlex.split(script.splitlines()[-1])
    assert words[-8:] == [
        "--set", "engine=trl", "--set", "model.device=cpu", "--set", hostile,
        "--set", f"trl.deepspeed={tmp_path / 'f' / 'deepspeed.json'}",
    ]  # fmt: skip
    assert words[words.index("--output") + 1] == str(tmp_path / "my run")
    assert subprocess.run(["sh", "-n", str(tmp_path / "f" / "launch.sh")], check=True)
    assert "export DS_ACCELERATOR=cpu" in script


def test_batches_that_do_not_divide_are_said_before_anything_is_written(tmp_path: Path) -> None:
    request = layout(5, cpu=True, folder=tmp_path / "f")
    with pytest.raises(UserError, match=r"192 completions a step, which 5 processes cannot share"):
        launch(request, print)
    assert not (tmp_path / "f").exists()


def run_of(tmp_path: Path, deepspeed: str | None) -> Path:
    """A run that was begun on TRL, with a DeepSpeed file or without."""
    run = tmp_path / "run"
    run.mkdir()
    trl = {} if deepspeed is None else {"deepspeed": deepspeed}
    recipe = load_recipe("countdown-tiny", ["engine=trl", f"trl={json.dumps(trl)}"])
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    return run


def resumed(run: Path, strategy: str, *overrides: str, **more: Any) -> AccelerateRequest:
    return AccelerateRequest(
        None, 2, strategy, list(overrides), resume=str(run), folder=run.parent / "f", dry_run=True,  # type: ignore[arg-type]
        cpu=True, **more,
    )  # fmt: skip


@DEEPSPEED
def test_a_run_whose_deepspeed_file_is_gone_gets_a_new_one(tmp_path: Path) -> None:
    run = run_of(tmp_path, "/another/machine/deepspeed.json")
    said = dry_run(tmp_path, resumed(run, "zero2"))
    assert f"trl.deepspeed={tmp_path / 'f' / 'deepspeed.json'}" in said[-1]
    assert json.loads((tmp_path / "f" / "deepspeed.json").read_text())["zero_optimization"]


@DEEPSPEED
def test_a_run_s_own_deepspeed_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    own = tmp_path / "f" / "deepspeed.json"
    edited = '{"zero_optimization": {"stage": 2}, "edited": true}'
    own.write_text(edited)
    said = dry_run(tmp_path, resumed(run_of(tmp_path, str(own)), "zero2"))
    assert "trl.deepspeed=" not in said[-1]
    assert own.read_text() == edited


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("ddp", r"--strategy is ddp; with a DeepSpeed file allowed are zero2 and zero3"),
        ("fsdp2", r"--strategy is fsdp2; with a DeepSpeed file"),
        ("zero3", r"has stage 2 and --strategy is zero3; they must agree"),
    ],
)
@DEEPSPEED
def test_strategy_and_deepspeed_file_agree(strategy: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 2}}')
    own = f"trl={{deepspeed: {tmp_path / 'own.json'}}}"
    with pytest.raises(UserError, match=words):
        launch(layout(2, strategy, cpu=True, overrides=[own], folder=tmp_path / "f"), print)
    with pytest.raises(UserError, match=words):
        launch(resumed(run_of(tmp_path, str(tmp_path / "own.json")), strategy), print)


def test_vllm_beside_shards_is_refused() -> None:
    recipe = load_recipe("countdown-tiny", ["engine=trl", "trl={vllm: colocate}"])
    check_together("zero3", recipe)
    with pytest.raises(UserError, match=r"'colocate' with --strategy fsdp2; allowed are off and"):
        check_together("fsdp2", recipe)


def test_a_run_goes_on_with_what_the_layout_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, None)
    sees(0, monkeypatch)
    assert dry_run(tmp_path, resumed(run, "ddp"))[-1].endswith(f"train --resume {run}")
    sees(2, monkeypatch)
    with pytest.raises(UserError, match=r"model.device: 'auto' -> 'cpu' .*--allow-change"):
        launch(resumed(run, "ddp"), print)
    said = dry_run(tmp_path, resumed(run, "ddp", allow_change=True))
    assert said[-1].endswith(f"train --resume {run} --allow-change --set model.device=cpu")
    with pytest.raises(UserError, match=r"grpo.beta: 0.0 -> 0.1"):
        launch(resumed(run, "ddp", "grpo.beta=0.1"), print)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resume": "y", "output": Path("x")}, "--output is for a new run"),
        ({"recipe": "countdown-tiny", "allow_change": True}, "--allow-change goes with --resume"),
        ({}, "either a RECIPE or --resume DIR"),
        ({"recipe": "countdown-tiny", "resume": "x"}, "either a RECIPE or --resume DIR"),
    ],
)
def test_options_of_the_other_kind(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        AccelerateRequest(**changes)


def test_a_folder_that_holds_a_run_is_not_begun_in(tmp_path: Path) -> None:
    run = run_of(tmp_path, None)
    with pytest.raises(UserError, match="already holds a run"):
        launch(layout(2, cpu=True, output=run), print)


def test_another_engine_is_said(tmp_path: Path) -> None:
    request = layout(2, cpu=True, overrides=["engine=native"])
    with pytest.raises(UserError, match=r"the recipe is to have engine 'native', which is one"):
        launch(request, print)


def test_missing_packages_and_wrong_runs_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--strategy zero3 needs DeepSpeed"):
        launch(layout(2, "zero3", cpu=True), print)
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match=r"has engine 'native', which is one process"):
        launch(AccelerateRequest(resume=str(tmp_path), processes=2), print)
    with pytest.raises(UserError, match="is not a run directory"):
        launch(AccelerateRequest(resume=str(tmp_path / "no"), processes=2, cpu=True), print)


def test_the_generating_gpu_is_not_a_training_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sees(4, monkeypatch)
    request = layout(3, vllm="server")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert accelerate.environment_of(request)["CUDA_VISIBLE_DEVICES"] == "0,1,2"
    assert accelerate.split_gpus(request)[1] == ["3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert accelerate.environment_of(request)["CUDA_VISIBLE_DEVICES"] == "4,5,6"
    assert accelerate.split_gpus(request)[1] == ["7"]
