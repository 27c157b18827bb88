"""The run directory: its files, written and read in one place. No torch.

recipe.yaml  recipe-until-step-50.yaml  environment.json  metrics.jsonl  alerts.jsonl  samples.jsonl
samples/step_00005.txt  events/  checkpoints/step-000100/  eval.json
eval-before.jsonl  eval-after.jsonl  evals/step-000050.jsonl  report.html
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aha.recipe import Recipe, RecipeChange, changes, dump_recipe, load_recipe
from aha.types import RunFailure, UserError

_PACKAGES = (
    "aha-zero", "torch", "transformers", "tokenizers", "numpy", "pydantic", "peft", "bitsandbytes",
    "trl", "accelerate", "deepspeed", "vllm",
)  # fmt: skip

# The names that training gives to files of a step. Other files in these folders are not its own.
_SAMPLES = re.compile(r"step_(\d{5,})\.txt")
_EVALUATION = re.compile(r"step-(\d{6,})\.jsonl")
_EARLIER_RECIPE = re.compile(r"recipe-until-step-(\d+)\.yaml")


class RunDirectory:
    """Paths, writers and readers of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.events = path / "events"
        self.samples = path / "samples"
        self.evals = path / "evals"
        self.metrics_file = path / "metrics.jsonl"
        self.samples_file = path / "samples.jsonl"
        self.alerts_file = path / "alerts.jsonl"
        self.eval_file = path / "eval.json"
        self.report_file = path / "report.html"

    @classmethod
    @contextmanager
    def begun(
        cls, recipe: Recipe, output: Path | None, facts: Mapping[str, Any] | None = None
    ) -> Iterator[RunDirectory]:
        """A new run directory with its recipe and environment, locked while inside.

        `facts` go into environment.json beside those of `environment`.
        A UserError before the first recorded step removes what was made, and nothing else.
        Errors: UserError if `output` already holds a run or cannot be written.
        """
        run, ours = cls(output or cls.new_path(recipe)), False
        with writable(run.path):
            missing = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
            before = set() if missing else set(run.path.iterdir())
        try:
            with ExitStack() as held:
                with writable(run.path):
                    run.path.mkdir(parents=True, exist_ok=True)
                    held.enter_context(run.locked())
                    cls.require_new(run.path)
                    ours = True
                    for folder in (run.checkpoints, run.samples):
                        folder.mkdir(exist_ok=True)
                    _replace(run.path / "recipe.yaml", dump_recipe(recipe))
                    run.write_json(
                        "environment.json", environment(recipe.train.seed) | dict(facts or {})
                    )
                yield run
        except UserError:
            # After the lock is free: a network file system keeps a file that is open.
            if ours and not run.metrics_file.exists():
                for path in set(run.path.iterdir()) - before:
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                for folder in missing:  # the innermost first
                    if not any(folder.iterdir()):
                        folder.rmdir()
            raise

    @staticmethod
    def new_path(recipe: Recipe) -> Path:
        """A folder under runs/ that does not exist yet, named by recipe and time."""
        base = Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
        others = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
        return next(path for path in itertools.chain([base], others) if not path.exists())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process. Errors: UserError if another process has it.

        The system releases the lock when the process ends, even when it is killed.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{str(self.path)!r} is in use by another process; wait for it, or choose another "
                "folder."
            ) from None
        try:
            yield
        finally:
            lock.release()

    @staticmethod
    def require_new(path: Path) -> None:
        """Errors: UserError if `path` already holds a run or cannot be read."""
        with writable(path):
            exists = (path / "recipe.yaml").exists()
        if exists:
            raise UserError(
                f"--output: {str(path)!r} already holds a run; resume it with --resume {path}, or "
                "choose another folder."
            )

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run. Errors: UserError if there is none."""
        try:
            is_run = (path / "recipe.yaml").is_file()
        except OSError as error:
            raise UserError(f"{str(path)!r} cannot be read: {error}.") from None
        if not is_run:
            raise UserError(f"{str(path)!r} is not a run directory: it has no recipe.yaml.")
        return cls(path)

    def environment(self) -> dict[str, Any]:
        """The facts in environment.json, if there are any. Errors: RunFailure if damaged."""
        path = self.path / "environment.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except ValueError:
            raise RunFailure(f"{path} is damaged; remove it, and its facts are left out.") from None

    def recipe(self) -> Recipe:
        return load_recipe(str(self.path / "recipe.yaml"))

    def resumed_recipe(
        self, overrides: Sequence[str], allow_change: bool
    ) -> tuple[Recipe, list[RecipeChange]]:
        """The run's recipe with `overrides`, and the changes they make.

        Errors: UserError for a change that gives the finished steps another meaning, unless
        `allow_change`.
        """
        recipe = load_recipe(str(self.path / "recipe.yaml"), overrides)
        changed = changes(self.recipe(), recipe)
        meaningful = [str(change) for change in changed if not change.free]
        if meaningful and not allow_change:
            raise UserError(
                f"--resume with another recipe: {'; '.join(meaningful)} would change what the "
                "steps so far mean; add --allow-change to do so all the same."
            )
        return recipe, changed

    def append_metrics(self, record: dict[str, Any]) -> None:
        _append(self.metrics_file, [record])

    def append_samples(self, records: Iterable[dict[str, Any]]) -> None:
        _append(self.samples_file, records)

    def append_alerts(self, records: Iterable[dict[str, Any]]) -> None:
        _append(self.alerts_file, records)

    def metrics(self) -> list[dict[str, Any]]:
        """All steps' records, in order. Errors: RunFailure naming a damaged line."""
        return self.read_lines(self.metrics_file.name)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The records of a .jsonl file in the run; none if there is no such file."""
        path = self.path / name
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")
        # An interrupted write leaves a last line without its end; it was never recorded.
        return [
            _parsed(line, f"{path}, line {number},")
            for number, line in enumerate(lines[:-1], start=1)
        ]

    def write_lines(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        write_lines(self.path / name, records)

    def evaluation(self) -> dict[str, Any]:
        """The content of eval.json; empty if there is none. Errors: RunFailure if damaged."""
        if not self.eval_file.exists():
            return {}
        found: dict[str, Any] = _parsed(self.eval_file.read_bytes(), str(self.eval_file))
        return found

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        _replace(self.path / name, f"{text}\n")

    def record_bytes(self) -> dict[str, int]:
        """The length of each record file. A checkpoint stores them, and `rewind` cuts to them."""
        files = (self.metrics_file, self.samples_file, self.alerts_file)
        return {file.name: file.stat().st_size if file.exists() else 0 for file in files}

    def shortened(self, record_bytes: Mapping[str, int]) -> Path | None:
        """A record file that is shorter than recorded. Samples and alerts may have been removed."""
        now = self.record_bytes()
        for name, length in record_bytes.items():
            path = self.path / name
            if now[name] < length and (path.exists() or path == self.metrics_file):
                return path
        return None

    def rewind(self, step: int, record_bytes: Mapping[str, int]) -> int:
        """Remove all records after `step`; returns the number of removed steps.

        Errors: RunFailure if a record file is shorter than it was at `step`.
        """
        lost = len([record for record in self.metrics() if record["step"] > step])
        short = self.shortened(record_bytes)
        if short is not None:
            raise RunFailure(f"{short} is shorter than at step {step}.")
        for name, length in record_bytes.items():
            if (self.path / name).exists():
                os.truncate(self.path / name, length)
        for of_step, path in (*_by_step(self.samples, _SAMPLES), *self.evaluations()):
            if of_step > step:
                path.unlink()
        recipes = _by_step(self.path, _EARLIER_RECIPE)
        later = [path for of_step, path in recipes if of_step > step]
        # The first of these ran the last step that is left, unless another recipe ended there.
        kept = [] if self._until(step).exists() else later[:1]
        for path in later[len(kept) :]:
            path.unlink()
        for path in kept:
            path.rename(self._until(step))
        return lost

    def evaluations(self) -> list[tuple[int, Path]]:
        """The step and the file of each evaluation during training, in order.

        `aha eval` writes files of other names into the same folder; they are left out.
        """
        return _by_step(self.evals, _EVALUATION)

    def change_recipe(self, recipe: Recipe, step: int) -> None:
        """Continue with another recipe; the recipe of the steps until `step` is kept beside it.

        A recipe that no step ran with is not kept.
        """
        if not self._until(step).exists():
            _replace(self._until(step), dump_recipe(self.recipe()))
        _replace(self.path / "recipe.yaml", dump_recipe(recipe))

    def earlier_recipes(self) -> list[tuple[int, Recipe]]:
        """Earlier recipes of the run, each with the last step that ran with it, in order."""
        found = _by_step(self.path, _EARLIER_RECIPE)
        return [(step, load_recipe(str(path))) for step, path in found]

    def _until(self, step: int) -> Path:
        return self.path / f"recipe-until-step-{step}.yaml"


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON line per record, whole or not at all; missing folders are made.

    Errors: ValueError for a number that JSON does not know, OSError.
    """
    text = _lines(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, text)


# `--resume` without a folder means this one.
LATEST = "latest"


def found_run(name: str, parent: Path = Path("runs")) -> Path:
    """The folder of that name, or of the newest run under `parent` if the name is `LATEST`.

    Errors: UserError if `parent` has no run.
    """
    if name != LATEST:
        return Path(name)
    runs = find_runs(parent)
    if not runs:
        raise UserError(f"--resume: there is no run under {str(parent)!r}; name its folder.")
    return runs[0].path


def find_runs(parent: Path = Path("runs")) -> list[RunDirectory]:
    """The run directories under `parent`, the newest first."""
    recipes = sorted(parent.glob("*/recipe.yaml"), key=lambda path: -path.stat().st_mtime)
    return [RunDirectory(path.parent) for path in recipes]


def environment(seed: int) -> dict[str, Any]:
    """The facts that reproduce a run: versions, machine, seed, commit."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": seed,
        "git_commit": _git_commit(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


@contextmanager
def writable(path: Path, named: str = "--output") -> Iterator[None]:
    """Name the option when the system refuses to write `path` inside. Errors: UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{named}: {str(path)!r} cannot be written: {error}.") from None


def require_empty(folder: Path) -> None:
    """Errors: UserError for a path that is no folder, or a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} exists and holds something; choose another folder.")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def usable_cores() -> int:
    """The CPU cores that this process may use; all cores where the system cannot tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, such as "AMD EPYC 7B13"; may be empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_commit() -> str | None:
    """The commit of the source, if it is a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() or None


def _lines(records: Iterable[dict[str, Any]]) -> str:
    texts = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    return "".join(f"{text}\n" for text in texts)


def _append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(records))


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RunFailure(f"{where} is damaged: {error}.") from None


def _by_step(folder: Path, name: re.Pattern[str]) -> list[tuple[int, Path]]:
    """The step and the path of the files of that name, by step."""
    found = ((name.fullmatch(path.name), path) for path in folder.glob("*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
