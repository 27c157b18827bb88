"""`aha launch sagemaker`: a recipe as a training job of Amazon SageMaker, in script mode.

The source folder is an input channel, and the container's entry point is a script in it,
`sagemaker_entry.py`. So any image with python3 works. The run's folder is SageMaker's checkpoint
folder, which it copies to S3, and back when an interrupted spot job starts again.

Left out: the SageMaker Python SDK, with its seventy packages, SageMaker's own data channels and its
sharded-training libraries.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from aha.launch import SageMakerRequest
from aha.recipe import Recipe, load_recipe, shipped_recipes
from aha.rewards.score import require_known
from aha.runs import writable
from aha.trl.config import refuse, trl_section
from aha.types import RunFailure, UserError
from aha.visible import package_yaml, quoted, text_template

_ENTRY = "sagemaker_entry.py"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?")
# AWS's images and machines, and the option behind each field of a job.
_AWS: dict[str, Any] = package_yaml("aha.launch", "sagemaker.yaml")


@dataclass(frozen=True)
class Job:
    """A checked request to AWS, the files to upload by name, and their address and region."""

    request: Mapping[str, Any]
    files: Mapping[str, bytes]
    source_address: str
    region: str


def training_job(request: SageMakerRequest) -> Job:
    """The job, validated against SageMaker's model; nothing is sent. Errors: UserError."""
    files, settings = make_source(request)
    if find_spec("boto3") is None:
        raise UserError("aha launch sagemaker needs boto3: pip install 'aha-zero[sagemaker]'.")
    _check(request, settings["engine"])
    import boto3

    # boto3 itself reads AWS_DEFAULT_REGION and the configuration file.
    region = request.region or os.environ.get("AWS_REGION") or boto3.Session().region_name
    if not region:
        raise UserError("--region is missing; name one, such as eu-west-1, or set AWS_REGION.")
    if not re.fullmatch(r"[a-z]{2,5}(-[a-z]+)+-[0-9]", region):
        raise UserError(f"--region is {quoted(region)}; write it as eu-west-1.")
    image = request.image
    if image is None:
        if region not in _AWS["regions"]:
            raise UserError(
                f"--image is missing; in {region} AWS keeps its PyTorch images elsewhere than in "
                f"{', '.join(_AWS['regions'])}."
            )
        on_gpu = str(request.instance_type).startswith(("ml.g", "ml.p"))
        image = _AWS["image"].format(region=region, kind="cu133" if on_gpu else "cpu")
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
    recipe_name = load_recipe(request.recipe, request.overrides or ()).name
    base = request.name or f"aha-{recipe_name}".replace(".", "-").replace("_", "-").rstrip("-")
    job_name = f"{base[:47].rstrip('-')}-{stamp}"
    # The bucket that the SageMaker SDK would make.
    bucket = f"s3://sagemaker-{region}-{''.join(str(request.role).split(':')[4:5])}"
    if request.bucket is not None:
        if not _BUCKET.fullmatch(request.bucket):
            raise UserError(
                f"--bucket is {quoted(request.bucket)}; write it as s3://BUCKET/PREFIX."
            )
        bucket = request.bucket.rstrip("/")
    # The next job of the same --name goes on with its run; a job without a name stands alone.
    home = f"{bucket}/{request.name or job_name}"
    source_address = f"{home}/source/{stamp}"
    hours = {"MaxRuntimeInSeconds": request.max_hours}
    if request.spot:
        hours["MaxWaitTimeInSeconds"] = request.max_wait_hours or 2 * request.max_hours
    template = text_template("aha.launch", "training_job.json.j2", json=json.dumps)
    body: dict[str, Any] = json.loads(
        template.render(
            request=request,
            name=job_name,
            image=image,
            settings=settings,
            home=home,
            source_address=source_address,
            seconds={key: max(1, round(3600 * h)) for key, h in hours.items()},
        )
    )
    validate(body)
    return Job(body, files, source_address, region)


def make_source(request: SageMakerRequest) -> tuple[dict[str, bytes], dict[str, str]]:
    """The container's files by name, and recipe keys with values, without a question to AWS.

    Errors: UserError for a recipe that is wrong, or names files that cannot be sent along.
    """
    overrides = request.overrides or []
    recipe = load_recipe(request.recipe, overrides)
    require_known(recipe)
    if recipe.engine == "trl":
        refuse(recipe)
    elif request.strategy != "ddp":
        raise UserError(
            f"--strategy is {request.strategy}; the native engine is one process, so add --set "
            "engine=trl."
        )
    settings: dict[str, str] = {"engine": recipe.engine}
    for override in overrides:
        key, _, value = override.partition("=")
        settings[key.strip()] = value
    sorted_ = [f"{key}={value}" for key, value in sorted(settings.items())]
    if load_recipe(request.recipe, sorted_) != recipe:
        raise UserError(
            f"--set {quoted(overrides)}: SageMaker keeps hyper-parameters in no "
            "order, and here the order matters; write them into the recipe."
        )
    text = shipped_recipes().get(request.recipe)
    if text is None:
        text = Path(os.path.expanduser(request.recipe)).read_text(encoding="utf-8")
    extras: list[str] = [name for name in recipe.logging.report_to if name != "tensorboard"]
    extras += ["trl"] if recipe.engine == "trl" else []
    extras += ["deepspeed"] if request.strategy.startswith("zero") else []
    extras += ["quantized"] if recipe.model.quantization != "none" else []
    bracket = f"[{','.join(extras)}]" if extras else ""
    requirement = f"aha-zero{bracket}=={metadata.version('aha-zero')}"
    if request.wheel is not None:
        requirement = f"./{request.wheel.name}{bracket}"
    files = {
        "recipe.yaml": text.encode(),
        "requirements.txt": f"{requirement}\n".encode(),
        _ENTRY: (resources.files("aha.launch") / _ENTRY).read_bytes(),
        **_own_files(recipe, request.wheel),
    }
    return files, settings


def local_command(request: SageMakerRequest, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The entry point with `folder` in place of /opt/ml, laid out as in SageMaker's container.

    Returns the command and its environment. Errors: UserError, also for a folder not writable.
    """
    (sources, settings), folder = make_source(request), folder.resolve()
    code, config = folder / "input" / "data" / "code", folder / "input" / "config"
    files = {code / name: data for name, data in sources.items()}
    files[config / "hyperparameters.json"] = json.dumps(settings).encode()
    files[config / "resourceconfig.json"] = b'{"current_host": "algo-1", "hosts": ["algo-1"]}'
    with writable(folder, "--folder"):
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    # A SageMaker notebook has SM_ variables of its own.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SM_")}
    environment["AHA_STRATEGY"] = request.strategy
    environment["SAGEMAKER_BASE_DIR"] = str(folder)
    # This environment has aha already.
    environment["AHA_SAGEMAKER_INSTALL"] = "0"
    return [sys.executable, str(code / _ENTRY)], environment


def _check(request: SageMakerRequest, engine: str) -> None:
    """Check the options of a job that is sent. Errors: UserError."""
    for option, value in (("--role", request.role), ("--instance-type", request.instance_type)):
        if not value:
            raise UserError(f"{option} is missing; only --local does without.")
    if request.instance_count > 1 and engine == "native":
        raise UserError(
            f"--instance-count is {request.instance_count}; the native engine is one process, so "
            "add --set engine=trl, or ask for one machine."
        )
    gpus = _AWS["gpus"].get(str(request.instance_type), 1)
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
    if not 0 < request.max_hours <= 672:  # SageMaker's limit of 28 days
        raise UserError(f"--max-hours is {request.max_hours:g}; it must be within 0 to 672.")
    if request.max_wait_hours is not None and not request.spot:
        raise UserError("--max-wait-hours goes with --spot: others do not wait for a machine.")
    waiting = request.max_hours if request.max_wait_hours is None else request.max_wait_hours
    if not request.max_hours <= waiting < float("inf"):
        raise UserError(
            f"--max-wait-hours is {waiting:g}; training is part of it, so it must be at least "
            f"--max-hours, {request.max_hours:g}, and finite."
        )
    # Installed from a folder or an address, not from an index (PEP 610).
    from_source = metadata.distribution("aha-zero").read_text("direct_url.json") is not None
    if request.image is None and request.wheel is None and from_source:
        raise UserError(
            "--image or --wheel is missing: this aha-zero was installed from a folder, which "
            "AWS's image cannot reach; make a wheel with `pip wheel --no-deps .`, or build an "
            "image from docker/Dockerfile."
        )


def _own_files(recipe: Recipe, wheel: Path | None) -> dict[str, bytes]:
    """The wheel, and every file of this machine that the recipe names, by path in the container.

    Errors: UserError for a file that cannot be read, or cannot have the same relative path there.
    """
    named = [
        ("task.source", recipe.task.source),
        ("task.test_source", recipe.task.test_source),
        ("model.name", recipe.model.name),
        *(("rewards", reward.name.partition(":")[0]) for reward in recipe.rewards),
        ("trl.deepspeed", trl_section(recipe).deepspeed),
    ]
    found = [] if wheel is None else [("--wheel", wheel, wheel.name)]
    for key, path in named:
        # Path.exists raises for a name that no file can have.
        if path is None or not os.path.exists(path):
            continue
        if Path(path).is_dir() or Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(
                f"{key} is {quoted(path)}, of this machine; what goes to SageMaker is a file at or "
                "below the folder you are in, or a name of the hub."
            )
        found.append((key, Path(path), PurePosixPath(path).as_posix()))
    files = {}
    for key, file, name in found:
        try:
            files[name] = file.read_bytes()
        except OSError as error:
            raise UserError(f"{key}: {str(file)!r} cannot be read: {error}.") from None
    return files


def validate(request: Mapping[str, Any]) -> None:
    """Check a request against the service's model. Errors: UserError naming the first fault.

    botocore leaves the model's lengths, patterns and enumerations to the service; not here.
    """
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        found = " ".join(report.generate_report().split())
        raise UserError(f"SageMaker would not take the request: {found}.")
    if fault := next(_faults(shape, request, ""), None):
        raise UserError(fault)


def _faults(shape: Any, value: Any, path: str) -> Iterator[str]:
    """A sentence for each fault that the model forbids and botocore does not check."""
    where = _AWS["options"].get(path, path)
    limits, kind = shape.metadata, shape.type_name
    if kind in ("string", "list", "map") and len(value) > limits.get("max", len(value)):
        unit = "characters" if kind == "string" else "entries"
        yield f"{where} has {len(value)} {unit}; SageMaker takes {limits['max']} at most."
    if kind == "string":
        pattern = limits.get("pattern")
        if pattern and not re.fullmatch(pattern, value):
            yield f"{where} is {quoted(value)}; SageMaker takes what matches {pattern}."
        if shape.enum and value not in shape.enum:
            family = [name for name in shape.enum if name.split(".")[:2] == value.split(".")[:2]]
            known = f"of that family it knows {', '.join(family)}" if family else "it knows others"
            yield f"{where} is {quoted(value)}; SageMaker does not know it: {known}."
    elif kind == "structure":
        for name, inner in value.items():
            yield from _faults(shape.members[name], inner, f"{path}.{name}" if path else name)
    elif kind == "list":
        for inner in value:
            yield from _faults(shape.member, inner, path)
    elif kind == "map":
        for key, inner in value.items():
            yield from _faults(shape.key, key, path)
            yield from _faults(shape.value, inner, path)


def submit(job: Job) -> str:
    """Upload the files and create the job; its ARN. Errors: RunFailure with AWS's reason."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, folder = job.source_address.removeprefix("s3://").partition("/")
    try:
        s3 = boto3.client("s3", region_name=job.region)
        for name, data in job.files.items():
            s3.put_object(Bucket=bucket, Key=f"{folder}/{name}", Body=data)
        sagemaker = boto3.client("sagemaker", region_name=job.region)
        return str(sagemaker.create_training_job(**job.request)["TrainingJobArn"])
    except (BotoCoreError, ClientError) as error:
        raise RunFailure(f"AWS refused: {' '.join(str(error).split())}") from None
