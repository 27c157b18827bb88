"""The training job that SageMaker would get: its parts, its checks, and what moto makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from aha.cli.main import app
from aha.launch import SageMakerRequest, sagemaker
from aha.launch.sagemaker import make_source, submit, training_job, validate
from aha.types import RunFailure, UserError

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (extra sagemaker)")

ROLE = "arn:aws:iam::123456789012:role/aha"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/aha:0.1.0"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's AWS settings nor its credentials play a part."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def ask(**changes: Any) -> SageMakerRequest:
    values = {
        "recipe": "countdown-tiny", "role": ROLE, "instance_type": "ml.g5.2xlarge",
        "image": IMAGE, "region": "eu-west-1",
    }  # fmt: skip
    return SageMakerRequest(**{**values, **changes})


def test_the_request_says_what_was_asked() -> None:
    job = training_job(
        ask(
            overrides=["train.max_steps=3", "model.dtype=float32"], spot=True, max_hours=2.0,
            max_wait_hours=5.0, bucket="s3://mine/prefix", name="first", volume_gb=50,
        )
    )  # fmt: skip
    body = dict(job.request)
    name = body.pop("TrainingJobName")
    assert name.startswith("first-2")
    stamp = name.removeprefix("first-")
    assert body == {
        "RoleArn": ROLE,
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/sagemaker_entry.py"],
        },
        "HyperParameters": {
            "engine": "native",
            "train.max_steps": "3",
            "model.dtype": "float32",
        },
        "Environment": {"AHA_STRATEGY": "ddp"},
        "InputDataConfig": [
            {
                "ChannelName": "code",
                "InputMode": "File",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"s3://mine/prefix/first/source/{stamp}/",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://mine/prefix/first/output"},
        "CheckpointConfig": {
            "S3Uri": "s3://mine/prefix/first/checkpoints",
            "LocalPath": "/opt/ml/checkpoints",
        },
        "ResourceConfig": {
            "InstanceType": "ml.g5.2xlarge",
            "InstanceCount": 1,
            "VolumeSizeInGB": 50,
        },
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 7200, "MaxWaitTimeInSeconds": 18000},
    }


def test_defaults_are_the_sdk_s_bucket_and_no_waiting() -> None:
    body = training_job(ask()).request
    assert body["OutputDataConfig"]["S3OutputPath"].startswith(
        "s3://sagemaker-eu-west-1-123456789012/aha-countdown-tiny-"
    )
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400}
    assert training_job(ask(spot=True)).request["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 86_400,
        "MaxWaitTimeInSeconds": 172_800,
    }


def test_the_image_is_aws_s_own_for_gpus_and_cpus(tmp_path: Path) -> None:
    wheel = tmp_path / "aha_zero-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    registry = "763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch:2.13-"
    for instance, kind in (
        ("ml.g5.2xlarge", "cu133"),
        ("ml.p5.4xlarge", "cu133"),
        ("ml.m5.xlarge", "cpu"),
    ):
        job = training_job(ask(image=None, wheel=wheel, instance_type=instance))
        image = job.request["AlgorithmSpecification"]["TrainingImage"]
        assert image == f"{registry}{kind}-amzn2023-sagemaker"
    assert job.files[wheel.name] == b"wheel"
    assert job.files["requirements.txt"] == f"./{wheel.name}\n".encode()


def test_the_source_has_recipe_pins_and_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/mine.jsonl").write_text("{}\n")
    Path("mine.yaml").write_text(
        "name: mine\ntask: {name: custom, source: data/mine.jsonl}\n"
        "rewards: [{name: 'data/reward.py:f'}]\nlogging: {report_to: [wandb]}\n"
    )
    Path("data/reward.py").write_text("def f(completions): return [1.0] * len(completions)\n")
    monkeypatch.setattr(sagemaker.metadata, "version", lambda name: "1.2.3")
    files, _ = make_source(ask(recipe="mine.yaml"))
    assert sorted(files) == [
        "data/mine.jsonl", "data/reward.py", "recipe.yaml", "requirements.txt",
        "sagemaker_entry.py",
    ]  # fmt: skip
    assert files["recipe.yaml"] == Path("mine.yaml").read_bytes()
    assert files["requirements.txt"] == b"aha-zero[wandb]==1.2.3\n"
    files, settings = make_source(ask(recipe="mine.yaml", overrides=["engine=trl"]))
    assert files["requirements.txt"] == b"aha-zero[wandb,trl]==1.2.3\n"
    assert settings == {"engine": "trl"}
    files, _ = make_source(ask(recipe="mine.yaml", overrides=["engine=trl"], strategy="zero3"))
    assert files["requirements.txt"] == b"aha-zero[wandb,trl,deepspeed]==1.2.3\n"


def test_files_elsewhere_cannot_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("{}\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for path in (str(data), "../mine.jsonl"):
        with pytest.raises(UserError, match=r"task\.source is .* of this machine"):
            make_source(ask(overrides=["task.name=custom", f"task.source={path}"]))
    Path("weights").mkdir()
    with pytest.raises(UserError, match=r"model\.name is 'weights', of this machine"):
        make_source(ask(overrides=["model.name=weights"]))


def test_settings_whose_order_matters_are_refused() -> None:
    with pytest.raises(UserError, match="in no order"):
        make_source(ask(overrides=["lora.r=4", "lora={}"]))
    assert make_source(ask(overrides=["lora={}", "lora.r=4"]))[1]["lora.r"] == "4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"role": None}, "--role is missing"),
        ({"role": "me"}, "RoleArn, value: 2, valid min length: 20"),
        ({"role": "arn:aws:iam::1:role/x"}, "--role is 'arn:aws:iam::1:role/x'"),
        ({"instance_type": None}, "--instance-type is missing"),
        ({"instance_type": "ml.g5.3xlarge"}, "--instance-type is 'ml.g5.3xlarge'.* ml.g5.2xlarge"),
        ({"instance_count": 2}, "--instance-count is 2; the native engine is one process"),
        (
            {"instance_type": "ml.g5.12xlarge"},
            "--instance-type is ml.g5.12xlarge, which has 4 GPUs; the native engine is one process",
        ),
        ({"instance_type": "ml.p4d.24xlarge"}, "has 8 GPUs; .*--set engine=trl"),
        ({"strategy": "fsdp2"}, "--strategy is fsdp2; the native engine is one process"),
        (
            {"strategy": "zero2", "instance_count": 2, "overrides": ["engine=trl"]},
            "--strategy is zero2 with --instance-count 2; SageMaker's machines share no folder",
        ),
        ({"region": None}, "--region is missing"),
        ({"region": "Ireland"}, "--region is 'Ireland'"),
        ({"image": None}, "--image or --wheel is missing"),
        ({"bucket": "mine"}, "--bucket is 'mine'; write it as s3://"),
        ({"bucket": "s3:///x"}, "--bucket is 's3:///x'"),
        ({"name": "under_score"}, "--name is 'under_score-"),
        ({"max_hours": 0.0}, "--max-hours is 0"),
        ({"max_hours": float("nan")}, "--max-hours is nan"),
        ({"max_hours": 700.0}, "--max-hours is 700"),
        ({"max_wait_hours": 30.0}, "--max-wait-hours goes with --spot"),
        ({"spot": True, "max_wait_hours": 1.0}, "--max-wait-hours is 1; .* --max-hours, 24"),
        ({"spot": True, "max_wait_hours": float("inf")}, "--max-wait-hours is inf; .* finite"),
        ({"overrides": ["rewards=[{name: acuracy}]"]}, "Did you mean 'accuracy'"),
        ({"overrides": [f"model.name={'x' * 2501}"]}, "--set has 2501 characters"),
        ({"overrides": ["train.max_steps=0"]}, "train.max_steps is 0"),
        ({"wheel": Path("none.whl")}, "--wheel: 'none.whl' cannot be read"),
    ],
)
def test_what_is_impossible_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        training_job(ask(**changes))


@pytest.mark.parametrize("option", ["--instance-count", "--volume-gb"])
def test_an_option_below_one_is_named(option: str) -> None:
    done = typer.testing.CliRunner().invoke(
        app, ["launch", "sagemaker", "countdown-tiny", option, "0"]
    )
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr
    assert "greater than or equal to 1" in done.stderr


def test_several_gpus_are_for_trl() -> None:
    job = training_job(ask(instance_type="ml.g5.12xlarge", overrides=["engine=trl"]))
    assert job.request["ResourceConfig"]["InstanceType"] == "ml.g5.12xlarge"


def test_a_region_with_another_registry_needs_an_image(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"")
    with pytest.raises(UserError, match="--image is missing; in eu-south-1"):
        training_job(ask(image=None, wheel=wheel, region="eu-south-1"))


def test_botocore_refuses_a_request_of_the_wrong_form() -> None:
    body = dict(training_job(ask()).request)
    validate(body)
    with pytest.raises(UserError, match="Missing required parameter"):
        validate({k: v for k, v in body.items() if k != "RoleArn"})
    with pytest.raises(UserError, match="Unknown parameter"):
        validate({**body, "Colour": "red"})


def test_moto_takes_the_job_and_its_source() -> None:
    moto = pytest.importorskip("moto", reason="moto is not installed")
    with moto.mock_aws():
        s3 = boto3.client("s3", region_name="eu-west-1")
        place = {"LocationConstraint": "eu-west-1"}
        s3.create_bucket(Bucket="mine", CreateBucketConfiguration=place)
        job = training_job(ask(bucket="s3://mine/p", spot=True, overrides=["train.max_steps=3"]))
        name = job.request["TrainingJobName"]
        assert submit(job) == f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/{name}"
        client = boto3.client("sagemaker", region_name="eu-west-1")
        told = client.describe_training_job(TrainingJobName=name)
        for field in ("HyperParameters", "ResourceConfig", "CheckpointConfig", "RoleArn"):
            assert told[field] == job.request[field]
        prefix = job.source_address.removeprefix("s3://mine/")
        for file, data in job.files.items():
            stored = s3.get_object(Bucket="mine", Key=f"{prefix}/{file}")["Body"].read()
            assert stored == data


def test_a_refusal_is_one_sentence() -> None:
    moto = pytest.importorskip("moto", reason="moto is not installed")
    with moto.mock_aws(), pytest.raises(RunFailure, match=r"AWS refused: .*NoSuchBucket"):
        submit(training_job(ask(bucket="s3://nobodys")))


def test_without_submit_the_request_is_printed_and_nothing_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object) -> str:
        raise AssertionError("sent")

    monkeypatch.setattr(sagemaker, "submit", forbidden)
    done = typer.testing.CliRunner().invoke(
        app,
        ["launch", "sagemaker", "countdown-tiny", "--role", ROLE, "--image", IMAGE,
         "--instance-type", "ml.g5.2xlarge", "--region", "eu-west-1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["RoleArn"] == ROLE
    assert "not sent" in done.stderr
