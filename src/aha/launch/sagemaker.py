"""`aha launch sagemaker`: a recipe as a training job of Amazon SageMaker, in script mode.

The source folder (recipe, pinned requirements, `sagemaker_entry.py`) is an input channel, and the
container's entry point is that script: so any image with python3 will do, AWS's PyTorch ones and
one built from docker/Dockerfile. The run's folder is SageMaker's checkpoint folder, which it copies
to S3 while training and back when an interrupted spot job starts again.
Left out: SageMaker's own data channels and its sharded-training libraries.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path, PurePosixPath
from typing import Any

from aha.launch.layout import Strategy
from aha.launch.sagemaker_api import region_of, require_boto3, validate
from aha.recipe import Recipe, load_recipe, shipped_recipes
from aha.rewards.score import require_known
from aha.types import UserError
from aha.visible import quoted

# AWS's PyTorch 2.13 images, as sagemaker-core 2.27.0 names them (image_uri_config,
# pytorch-amzn2023.json): one registry for these regions, others elsewhere.
_REGISTRY = "763104351884.dkr.ecr.{region}.amazonaws.com/pytorch:2.13-{kind}-amzn2023-sagemaker"
_REGIONS = frozenset(
    (
        "ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2",
        "ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3",
        "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2",
    )
)  # fmt: skip
# Instance types with more than one GPU, as AWS's pages of accelerated instances list them. A type
# that is missing here passes for one with a single GPU.
_GPUS = {
    **{f"ml.{family}.{size}xlarge": count for family in ("g4dn", "g5", "g6", "g6e")
       for size, count in ((12, 4), (24, 4), (48, 8))},
    "ml.g7e.12xlarge": 2, "ml.g7e.24xlarge": 4, "ml.g7e.48xlarge": 8,
    "ml.p2.8xlarge": 8, "ml.p2.16xlarge": 16, "ml.p3.8xlarge": 4, "ml.p3.16xlarge": 8,
    "ml.p3dn.24xlarge": 8, "ml.p4d.24xlarge": 8, "ml.p4de.24xlarge": 8, "ml.p5.48xlarge": 8,
    "ml.p5e.48xlarge": 8, "ml.p5en.48xlarge": 8, "ml.p6-b200.48xlarge": 8,
    "ml.p6-b300.48xlarge": 8, "ml.p6e-gb200.36xlarge": 4,
}  # fmt: skip
_ENTRY = "sagemaker_entry.py"
_CODE = "/opt/ml/input/data/code"
_CHECKPOINTS = "/opt/ml/checkpoints"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?")
# SageMaker's longest training time, 28 days.
_LONGEST_H = 672.0


@dataclass(frozen=True)
class Request:
    """What `aha launch sagemaker` was asked; `bucket` is s3://BUCKET[/PREFIX]."""

    recipe: str
    overrides: Sequence[str] = ()
    role: str | None = None
    instance_type: str | None = None
    instance_count: int = 1
    image: str | None = None
    region: str | None = None
    bucket: str | None = None
    spot: bool = False
    max_hours: float = 24.0
    max_wait_hours: float | None = None
    volume_gb: int = 100
    name: str | None = None
    wheel: Path | None = None
    strategy: Strategy = "ddp"


@dataclass(frozen=True)
class Source:
    """What the container gets: files by name, recipe keys with values, and how processes share."""

    files: Mapping[str, bytes]
    settings: Mapping[str, str]
    engine: str
    strategy: Strategy


@dataclass(frozen=True)
class Job:
    """A checked request, what is to be uploaded where, and in which region."""

    request: Mapping[str, Any]
    source: Source
    source_address: str
    region: str


def training_job(request: Request) -> Job:
    """The job, held to SageMaker's own model of it; nothing is sent.

    Errors: UserError in one sentence naming the option.
    """
    source = make_source(request)
    require_boto3()
    _check(request, source.engine)
    region = region_of(request.region)
    recipe = load_recipe(request.recipe, request.overrides)
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
    base = request.name or f"aha-{recipe.name}".replace(".", "-").replace("_", "-").rstrip("-")
    job_name = f"{base[:47].rstrip('-')}-{stamp}"
    # A named run is gone on with by the next job of that name; one without a name stands alone.
    run_name = request.name or job_name
    bucket = _bucket(request, region).rstrip("/")
    source_address = f"{bucket}/{run_name}/source/{stamp}"
    body: dict[str, Any] = {
        "TrainingJobName": job_name,
        "RoleArn": request.role,
        "AlgorithmSpecification": {
            "TrainingImage": request.image or _default_image(request, region),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", f"{_CODE}/{_ENTRY}"],
        },
        "HyperParameters": dict(source.settings),
        "Environment": _environment(source),
        "InputDataConfig": [_channel("code", source_address)],
        "OutputDataConfig": {"S3OutputPath": f"{bucket}/{run_name}/output"},
        "CheckpointConfig": {
            "S3Uri": f"{bucket}/{run_name}/checkpoints",
            "LocalPath": _CHECKPOINTS,
        },
        "ResourceConfig": {
            "InstanceType": request.instance_type,
            "InstanceCount": request.instance_count,
            "VolumeSizeInGB": request.volume_gb,
        },
        "EnableManagedSpotTraining": request.spot,
        "StoppingCondition": _stopping(request),
    }
    validate(body)
    return Job(body, source, source_address, region)


def make_source(request: Request) -> Source:
    """The files and settings of a job, without a question to AWS.

    Errors: UserError for a recipe that is wrong, or names files that cannot come along.
    """
    recipe = load_recipe(request.recipe, request.overrides)
    require_known(recipe)
    if recipe.engine == "trl":
        from aha.trl.mapping import refuse

        refuse(recipe)
    elif request.strategy != "ddp":
        raise UserError(
            f"--strategy is {request.strategy}; the native engine is one process, so add --set "
            "engine=trl."
        )
    settings = _settings(request, recipe)
    files = {
        "recipe.yaml": _recipe_text(request.recipe).encode(),
        "requirements.txt": f"{_requirement(request, recipe)}\n".encode(),
        _ENTRY: (resources.files("aha.launch") / _ENTRY).read_bytes(),
    }
    if request.wheel is not None:
        files[request.wheel.name] = _read("--wheel", request.wheel)
    for key, path in _own_files(recipe):
        files[PurePosixPath(path).as_posix()] = _read(key, Path(path))
    return Source(files, settings, recipe.engine, request.strategy)


def local_command(source: Source, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The entry point with `folder` in place of /opt/ml, laid out as in SageMaker's container.

    Returns the command and its environment. Errors: UserError when the folder cannot be written.
    """
    folder = folder.resolve()
    code, config = folder / "input" / "data" / "code", folder / "input" / "config"
    resource_config = {"current_host": "algo-1", "hosts": ["algo-1"]}
    try:
        for path in (code, config, folder / "model", folder / "checkpoints"):
            path.mkdir(parents=True, exist_ok=True)
        for name, data in source.files.items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            (code / name).write_bytes(data)
        _write_json(config / "hyperparameters.json", source.settings)
        _write_json(config / "resourceconfig.json", resource_config)
    except OSError as error:
        raise UserError(f"--folder: {str(folder)!r} cannot be written: {error}.") from None
    environment = {
        **os.environ,
        "SAGEMAKER_BASE_DIR": str(folder),
        "SM_MODEL_DIR": str(folder / "model"),
        "SM_OUTPUT_DATA_DIR": str(folder / "output" / "data"),
        "SM_CHANNEL_CODE": str(code),
        "SM_HPS": json.dumps(dict(source.settings)),
        "SM_RESOURCE_CONFIG": json.dumps(resource_config),
        "SM_CURRENT_HOST": "algo-1",
        "SM_HOSTS": '["algo-1"]',
        **_environment(source),
        # This very environment has aha already.
        "AHA_SAGEMAKER_INSTALL": "0",
    }
    return [sys.executable, str(code / _ENTRY)], environment


def _environment(source: Source) -> dict[str, str]:
    """What the entry point is told beside the recipe's keys."""
    return {"AHA_STRATEGY": source.strategy}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(value)), encoding="utf-8")


def _check(request: Request, engine: str) -> None:
    for option, value in (("--role", request.role), ("--instance-type", request.instance_type)):
        if not value:
            raise UserError(f"{option} is missing; only --local does without.")
    if request.instance_count < 1:
        raise UserError(f"--instance-count is {request.instance_count}; it must be at least 1.")
    if request.instance_count > 1 and engine == "native":
        raise UserError(
            f"--instance-count is {request.instance_count}; the native engine is one process, so "
            "add --set engine=trl, or ask for one machine."
        )
    gpus = _GPUS.get(str(request.instance_type), 1)
    if gpus > 1 and engine == "native":
        raise UserError(
            f"--instance-type is {request.instance_type}, which has {gpus} GPUs; the native engine "
            "is one process on one GPU, so add --set engine=trl, or ask for a type with one GPU."
        )
    if request.instance_count > 1 and request.strategy.startswith("zero"):
        raise UserError(
            f"--strategy is {request.strategy} with --instance-count {request.instance_count}; "
            "SageMaker's machines share no folder for DeepSpeed's checkpoints, so allowed are ddp "
            "and fsdp2, or one machine."
        )
    if request.volume_gb < 1:
        raise UserError(f"--volume-gb is {request.volume_gb}; it must be at least 1.")
    if not 0 < request.max_hours <= _LONGEST_H:
        raise UserError(f"--max-hours is {request.max_hours:g}; it must be within 0 to 672.")
    if request.max_wait_hours is not None and not request.spot:
        raise UserError("--max-wait-hours goes with --spot: others do not wait for a machine.")
    waiting = request.max_hours if request.max_wait_hours is None else request.max_wait_hours
    if not request.max_hours <= waiting < float("inf"):
        raise UserError(
            f"--max-wait-hours is {waiting:g}; training is part of it, so it must be at least "
            f"--max-hours, {request.max_hours:g}, and finite."
        )
    if request.image is None and request.wheel is None and _from_source():
        raise UserError(
            "--image or --wheel is missing: this aha-zero was installed from a folder, which "
            "AWS's image cannot reach; make a wheel with `pip wheel --no-deps .`, or build an "
            "image from docker/Dockerfile."
        )


def _from_source() -> bool:
    """Whether this installation came from a folder or an address, not from an index (PEP 610)."""
    return metadata.distribution("aha-zero").read_text("direct_url.json") is not None


def _stopping(request: Request) -> dict[str, int]:
    limits = {"MaxRuntimeInSeconds": max(1, round(3600 * request.max_hours))}
    if request.spot:
        waiting = request.max_wait_hours or 2 * request.max_hours
        limits["MaxWaitTimeInSeconds"] = max(1, round(3600 * waiting))
    return limits


def _channel(name: str, address: str) -> dict[str, Any]:
    place = {
        "S3DataType": "S3Prefix",
        "S3Uri": f"{address}/",
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"ChannelName": name, "InputMode": "File", "DataSource": {"S3DataSource": place}}


def _bucket(request: Request, region: str) -> str:
    """Where everything goes; by default the bucket that the SageMaker SDK would make."""
    if request.bucket is None:
        account = str(request.role).split(":")[4:5]
        return f"s3://sagemaker-{region}-{''.join(account)}"
    if not _BUCKET.fullmatch(request.bucket):
        raise UserError(f"--bucket is {quoted(request.bucket)}; write it as s3://BUCKET/PREFIX.")
    return request.bucket


def _default_image(request: Request, region: str) -> str:
    if region not in _REGIONS:
        raise UserError(
            f"--image is missing; in {region} AWS keeps its PyTorch images elsewhere than in "
            f"{', '.join(sorted(_REGIONS))}."
        )
    on_gpu = str(request.instance_type).startswith(("ml.g", "ml.p"))
    return _REGISTRY.format(region=region, kind="cu133" if on_gpu else "cpu")


def _settings(request: Request, recipe: Recipe) -> dict[str, str]:
    """The overrides as hyper-parameters, and the engine. Errors: UserError when order matters."""
    settings: dict[str, str] = {"engine": recipe.engine}
    for override in request.overrides:
        key, _, value = override.partition("=")
        settings[key.strip()] = value
    sorted_ = [f"{key}={value}" for key, value in sorted(settings.items())]
    if load_recipe(request.recipe, sorted_) != recipe:
        raise UserError(
            f"--set {quoted(list(request.overrides))}: SageMaker keeps hyper-parameters in no "
            "order, and here the order matters; write them into the recipe."
        )
    return settings


def _recipe_text(name_or_path: str) -> str:
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    return Path(os.path.expanduser(name_or_path)).read_text(encoding="utf-8")


def _requirement(request: Request, recipe: Recipe) -> str:
    extras: list[str] = [name for name in recipe.logging.report_to if name != "tensorboard"]
    extras += ["trl"] if recipe.engine == "trl" else []
    extras += ["deepspeed"] if request.strategy.startswith("zero") else []
    extras += ["quantized"] if recipe.model.quantization != "none" else []
    bracket = f"[{','.join(extras)}]" if extras else ""
    if request.wheel is not None:
        return f"./{request.wheel.name}{bracket}"
    return f"aha-zero{bracket}=={metadata.version('aha-zero')}"


def _own_files(recipe: Recipe) -> list[tuple[str, str]]:
    """Key and path of every file of this machine that the recipe names.

    Errors: UserError for one that cannot lie at the same relative path in the container.
    """
    named = [("task.source", recipe.task.source), ("task.test_source", recipe.task.test_source)]
    named += [("model.name", recipe.model.name)]
    named += [("rewards", reward.name.partition(":")[0]) for reward in recipe.rewards]
    named += [("trl.deepspeed", recipe.trl.deepspeed)] if recipe.trl is not None else []
    found = []
    for key, path in named:
        # Unlike Path.exists, it takes a name that no file can have.
        if path is None or not os.path.exists(path):
            continue
        if Path(path).is_dir() or Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(
                f"{key} is {quoted(path)}, of this machine; what goes to SageMaker is a file at or "
                "below the folder you are in, or a name of the hub."
            )
        found.append((key, path))
    return found


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{what}: {str(path)!r} cannot be read: {error}.") from None
