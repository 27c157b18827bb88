"""`aha launch slurm`: an sbatch script that trains, saves before the limit, requeues and goes on.

The script is a template, `templates/slurm.sh.j2`. Every value from the user goes through
`shlex.quote`. No shell reads an #SBATCH line, so a value in one must match a pattern.
Left out: job arrays and heterogeneous jobs. The script is short enough to be edited for both.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable

from aha.launch import SlurmRequest
from aha.launch.accelerate import check_together, vllm_server_dtype
from aha.recipe import Recipe, load_recipe
from aha.rewards.score import require_known
from aha.runs import writable
from aha.trl.config import batch_plan, refuse
from aha.types import RunFailure, UserError
from aha.visible import text_template

# A file in the run's folder when training is done: a requeue after that does nothing.
FINISHED = ".slurm-finished"

_TIME = re.compile(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])")
_MEMORY = re.compile(r"[0-9]{1,9}[KMGT]?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+@:/-]{0,99}")
# SLURM's own limit of --signal, in seconds.
_LAST_SIGNAL_S = 65_535


def launch(request: SlurmRequest, say: Callable[[str], None]) -> None:
    """Write the script to the file asked for, submit it, or show it if neither is asked.

    Errors: UserError; RunFailure with sbatch's reason when it refuses.
    """
    text, file = slurm_script(request), request.file
    sbatch = shutil.which("sbatch") if request.submit else None
    if request.submit and sbatch is None:
        raise UserError(
            "--submit needs sbatch, which is not on this machine's path; write the script with "
            "--file and submit it from a login node."
        )
    if file is not None:
        if file.exists():
            raise UserError(f"--file: {str(file)!r} exists; choose another name.")
        with writable(file, "--file"):
            with file.open("x", encoding="utf-8") as script:
                script.write(text)
            file.chmod(0o755)
    if sbatch is not None:
        done = subprocess.run(  # noqa: S603
            [sbatch], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RunFailure(f"sbatch refused the job: {' '.join(done.stderr.split())}")
        say(done.stdout.strip())
    elif file is not None:
        say(f"wrote {file}; submit it with: sbatch {file}")
    else:
        say(text.removesuffix("\n"))


def slurm_script(request: SlurmRequest) -> str:
    """The script of a job that runs the request. Errors: UserError for what is impossible."""
    _check_values(request)
    overrides = list(request.overrides or ())
    if request.engine is not None:
        overrides.append(f"engine={request.engine}")
    if request.vllm_node:
        if load_recipe(request.recipe, overrides).engine == "native":
            raise UserError(
                "--vllm-node goes with --engine trl; the native engine writes its completions "
                "itself."
            )
        overrides.append("trl.vllm=server")
    recipe = load_recipe(request.recipe, overrides)
    require_known(recipe)
    _check_processes(request, recipe)
    return text_template("aha.launch", "slurm.sh.j2", sh=shlex.quote, path=_not_an_option).render(
        request=request,
        recipe=recipe,
        # `aha train` gets --engine if it was asked for, or is TRL.
        engine=recipe.engine if request.engine is not None or recipe.engine == "trl" else None,
        finished=FINISHED,
        vllm_dtype=vllm_server_dtype(recipe),
    )


def _not_an_option(path: object) -> str:
    return f"./{path}" if str(path).startswith("-") else str(path)


def _check_values(request: SlurmRequest) -> None:
    """Check each text by itself. Errors: UserError."""
    for option, text, pattern, allowed in (
        ("--mem", request.mem, _MEMORY, "a whole number with K, M, G or T, such as 64G"),
        ("--partition", request.partition, _NAME, "a name"),
        ("--account", request.account, _NAME, "a name"),
        ("--qos", request.qos, _NAME, "a name"),
        *(("--module", name, _NAME, "a module's name") for name in request.module or ()),
    ):
        if text is not None and not pattern.fullmatch(text):
            raise UserError(f"{option} is {text!r}; it must be {allowed}.")
    for line in request.setup or ():
        if "\n" in line or "\r" in line:
            raise UserError(f"--setup is {line!r}; it must be one line, and may be given again.")
    if request.container is not None and request.container[:1] in ("", "-", " "):
        raise UserError(f"--container is {request.container!r}; it must be an image.")
    match = _TIME.fullmatch(request.time)
    parts = [int(part or 0) for part in match.groups()] if match else [0] * 4
    limit = sum(count * s for count, s in zip(parts, (86_400, 3_600, 60, 1), strict=True))
    if not limit:
        raise UserError(
            f"--time is {request.time!r}; write it as hours:minutes:seconds, such as 04:00:00, or "
            "days-hours:minutes:seconds."
        )
    if request.signal_before >= min(limit, _LAST_SIGNAL_S):
        raise UserError(
            f"--signal-before is {request.signal_before}; it must be less than the {limit} seconds "
            f"of --time, and less than {_LAST_SIGNAL_S:,}."
        )


def _check_processes(request: SlurmRequest, recipe: Recipe) -> None:
    """Check nodes, GPUs and engine together. Errors: UserError."""
    if recipe.engine == "native" and request.processes > 1:
        raise UserError(
            f"--nodes {request.nodes} with --gpus-per-node {request.gpus_per_node} makes "
            f"{request.processes} processes; the native engine is one process on one GPU, so add "
            "--engine trl, or ask for one node and one GPU."
        )
    if request.strategy != "ddp" and request.processes == 1:
        raise UserError(
            f"--strategy {request.strategy} shares a model over processes, and --nodes 1 with "
            f"--gpus-per-node {request.gpus_per_node} is one; allowed there is ddp."
        )
    if recipe.model.device == "cuda" and not request.gpus_per_node:
        raise UserError(
            "--gpus-per-node is 0 and model.device is 'cuda'; allowed are auto and cpu."
        )
    if request.processes > 1:
        check_together(request.strategy, recipe)
    if request.vllm_node and not request.gpus_per_node:
        raise UserError("--vllm-node with --gpus-per-node 0: a vLLM server needs a GPU.")
    if recipe.engine == "trl":
        refuse(recipe)
        batch_plan(recipe, request.processes)
