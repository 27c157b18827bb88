"""What boto3 knows of CreateTrainingJob: is a request allowed, and sending it.

boto3 alone, not the SageMaker Python SDK: its version 3 brings mlflow, SQLAlchemy and seventy more
packages and an older rich, and what is needed here is one request and three small files. botocore
holds required fields and types to the service's model; lengths, patterns and enumerations stand in
the same model, and are checked here, where botocore leaves them to the service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from aha.types import RunFailure, UserError
from aha.visible import quoted

# The option behind a field of the request.
_OPTIONS = {
    "RoleArn": "--role",
    "TrainingJobName": "--name",
    "ResourceConfig.InstanceType": "--instance-type",
    "ResourceConfig.InstanceCount": "--instance-count",
    "AlgorithmSpecification.TrainingImage": "--image",
    "StoppingCondition.MaxRuntimeInSeconds": "--max-hours",
    "StoppingCondition.MaxWaitTimeInSeconds": "--max-wait-hours",
    "HyperParameters": "--set",
    "OutputDataConfig.S3OutputPath": "--bucket",
    "CheckpointConfig.S3Uri": "--bucket",
}


def require_boto3() -> None:
    """Errors: UserError when boto3 is not installed."""
    if find_spec("boto3") is None:
        raise UserError("aha launch sagemaker needs boto3: pip install 'aha-zero[sagemaker]'.")


def region_of(asked: str | None) -> str:
    """The region asked for, or the one that AWS's own settings name. Errors: UserError."""
    import boto3

    # boto3 itself reads AWS_DEFAULT_REGION and the configuration file.
    region = asked or os.environ.get("AWS_REGION") or boto3.Session().region_name
    if not region:
        raise UserError("--region is missing; name one, such as eu-west-1, or set AWS_REGION.")
    if not re.fullmatch(r"[a-z]{2,5}(-[a-z]+)+-[0-9]", region):
        raise UserError(f"--region is {quoted(region)}; write it as eu-west-1.")
    return region


def validate(request: Mapping[str, Any]) -> None:
    """Hold a request to the service's model. Errors: UserError naming the first fault's option."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        fault = " ".join(report.generate_report().split())
        raise UserError(f"SageMaker would not take the request: {fault}.")
    for fault in _faults(shape, request, ""):
        raise UserError(fault)


def _faults(shape: Any, value: Any, path: str) -> Iterator[str]:
    """What the model forbids and botocore lets pass; a sentence each."""
    where = _OPTIONS.get(path, path)
    limits = shape.metadata
    if shape.type_name in ("string", "list", "map") and len(value) > limits.get("max", len(value)):
        kind = "characters" if shape.type_name == "string" else "entries"
        yield f"{where} has {len(value)} {kind}; SageMaker takes {limits['max']} at most."
    if shape.type_name == "string":
        yield from _text_faults(shape, value, where)
    elif shape.type_name == "structure":
        for name, inner in value.items():
            yield from _faults(shape.members[name], inner, f"{path}.{name}" if path else name)
    elif shape.type_name == "list":
        for inner in value:
            yield from _faults(shape.member, inner, path)
    elif shape.type_name == "map":
        for key, inner in value.items():
            yield from _faults(shape.key, key, path)
            yield from _faults(shape.value, inner, path)


def _text_faults(shape: Any, value: str, where: str) -> Iterator[str]:
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(pattern, value):
        yield f"{where} is {quoted(value)}; SageMaker takes what matches {pattern}."
    if shape.enum and value not in shape.enum:
        family = [name for name in shape.enum if name.split(".")[:2] == value.split(".")[:2]]
        known = f"of that family it knows {', '.join(family)}" if family else "it knows others"
        yield f"{where} is {quoted(value)}; SageMaker does not know it: {known}."


def submit(
    request: Mapping[str, Any], source: Mapping[str, bytes], prefix: str, region: str
) -> str:
    """Upload the source files under `prefix`, an S3 address, and create the job; its ARN.

    Errors: RunFailure with AWS's reason.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    try:
        s3 = boto3.client("s3", region_name=region)
        for name, data in source.items():
            s3.put_object(Bucket=bucket, Key=f"{folder}/{name}", Body=data)
        sagemaker = boto3.client("sagemaker", region_name=region)
        return str(sagemaker.create_training_job(**request)["TrainingJobArn"])
    except (BotoCoreError, ClientError) as error:
        raise RunFailure(f"AWS refused: {' '.join(str(error).split())}") from None
