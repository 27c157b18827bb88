"""reasoning-gym's problem sets: generated problems, each with a verifier of its set.

A problem is known by its set, its config, a seed and an index, from which it is made again to be
scored. The package's verifiers read a model's text with `eval` in places, or hand it to sympy, so
they run in processes with limits on time and memory that may not write, connect or start programs.
"""

from __future__ import annotations

import ast
import atexit
import base64
import contextlib
import dataclasses
import functools
import io
import json
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aha.answers.workers import Workers, serve
from aha.sections import TaskSection
from aha.tasks.data import ProblemSet
from aha.tasks.task import Columns, Split, Task, bare, distinct, text_key
from aha.types import Problem, UserError
from aha.visible import did_you_mean, first_line, package_yaml, quoted, visible

_COLUMNS = ("problem", "answer", "dataset", "config", "seed", "index")
# Problems of one seed. Some sets make all their problems before the first one.
_BLOCK = 2_000
_PATIENCE = 2_000  # draws without a new problem: some sets take half a second for one
_EXAMPLE = 100  # characters of a problem in the list of sets
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "os.remove",
    "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.link", "os.symlink",
    "subprocess.", "socket.", "shutil.", "ctypes.",
)  # fmt: skip


def refused() -> dict[str, str]:
    """The sets that a run cannot use, with the reason."""
    return dict(package_yaml("aha.tasks", "reasoning_gym.yaml")["refused"])


def known_sets() -> dict[str, Any]:
    """Every set by name: its class and its config's. Errors: UserError without the package."""
    try:
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        if error.name != "reasoning_gym":
            raise
        raise UserError(
            "task.name is 'reasoning-gym', whose package is not installed: "
            "pip install 'aha-zero[gym]'."
        ) from None
    return dict(DATASETS)


def fields_of(name: str) -> dict[str, Any]:
    """The fields of a set's config with their defaults; the task itself sets seed and size."""
    fields = dataclasses.fields(known_sets()[name][1])
    return {f.name: f.default for f in fields if f.name not in ("seed", "size")}


# A recipe's problems of both splits are in a few blocks, and some sets load large files for each.
@functools.lru_cache(maxsize=16)
def dataset_of(name: str, config: str, seed: int, size: int = _BLOCK) -> Any:
    """A set with its config (JSON text). Errors: UserError naming the set or field and the value.

    A config's error may show only when a problem is made, so the first one is.
    """
    known = known_sets()
    if name not in known:
        raise UserError(
            f"task.dataset is {quoted(name)}; it should be one of {', '.join(sorted(known))}."
            f"{did_you_mean(name, known)}"
        )
    if name in (reasons := refused()):
        raise UserError(f"task.dataset is {name!r}, which cannot be trained on: {reasons[name]}.")
    settings, allowed = json.loads(config), fields_of(name)
    for key in settings:
        if key not in allowed:
            raise UserError(
                f"task.config has {key!r}, which {name} does not know; allowed are "
                f"{', '.join(allowed) or 'none'}.{did_you_mean(key, allowed)}"
            )
    import reasoning_gym

    try:
        dataset = reasoning_gym.create_dataset(name, seed=seed, size=size, **settings)
        _made(dataset, 0)
    except Exception as error:  # sets check a config with assert, or not at all
        if not settings:
            raise
        raise UserError(
            f"task.config is {config}, with which {name} makes no problem: {first_line(error)}; "
            f"its fields are {', '.join(f'{k}={v!r}' for k, v in allowed.items())}."
        ) from None
    return dataset


def _made(dataset: Any, index: int) -> dict[str, Any]:
    """A problem of a set, as the set gives it, without what it prints (`bf` prints dots)."""
    with contextlib.redirect_stdout(io.StringIO()):
        entry: dict[str, Any] = dataset[index]
    return entry


# The completions of a group, and several rewards, ask for the same problem.
@functools.lru_cache(maxsize=1_024)
def _made_again(name: str, config: str, seed: int, index: int) -> dict[str, Any]:
    return _made(dataset_of(name, config, seed), index)


def entry_of(columns: Columns) -> dict[str, Any]:
    """The set's own entry for a row. Errors: UserError if the package now makes another problem."""
    place = (columns["dataset"], columns["config"], columns["seed"], columns["index"])
    entry = _made_again(*place)
    if entry["question"] != columns["problem"]:
        raise UserError(
            f"problem {place[3]} of seed {place[2]} of {place[0]} is another one with the "
            "installed reasoning-gym; use the version that made the problems."
        )
    return entry


def scores(answers: Sequence[str | None], rows: Sequence[Columns]) -> list[float]:
    """The score of each answer by its set's verifier, 0 to 1; 0 without an answer."""
    found = [0.0] * len(rows)
    by_set: dict[tuple[str, str], list[int]] = {}
    for index, (answer, row) in enumerate(zip(answers, rows, strict=True)):
        if answer:
            by_set.setdefault((row["dataset"], row["config"]), []).append(index)
    for place, indices in by_set.items():
        requests = [[_packed(entry_of(rows[i])), bare(answers[i] or "")] for i in indices]
        for index, value in zip(indices, _workers(*place).ask_many(requests), strict=True):
            found[index] = value or 0.0
    return found


@functools.cache
def _workers(name: str, config: str) -> Workers:
    """The processes of one set, started when first needed."""
    workers = Workers(("aha.tasks.reasoning_gym", name, config))
    atexit.register(workers.close)
    return workers


class ReasoningGym(Task):
    """Problems have the columns `problem`, `answer`, `dataset`, `config` (JSON text), `seed`,
    `index`. An answer is right if its set's verifier gives it the full score.
    """

    name = "reasoning-gym"
    summary = "a set of reasoning-gym, named by task.dataset; generated (aha tasks --gym)"
    columns = _COLUMNS
    own_keys = ("dataset", "config")
    generates = True

    def load(self, section: TaskSection, split: Split, limit: int | None) -> ProblemSet:
        """As `Task.load`. Errors: UserError without a set, or with a set and a source."""
        if section.source is None and section.dataset is None:
            raise UserError("task.dataset is missing; `aha tasks --gym` lists the sets.")
        if section.source is not None and (section.dataset is not None or section.config):
            raise UserError(
                f"task.source is {section.source!r}, whose rows name their set and config; leave "
                "out task.dataset and task.config."
            )
        return super().load(section, split, limit)

    def problem(self, row: Columns, where: str) -> Problem:
        if missing := [column for column in _COLUMNS if column not in row]:
            raise UserError(
                f"{where}: column {missing[0]!r} is missing; a row has {', '.join(_COLUMNS)}."
            )
        columns = {column: row[column] for column in _COLUMNS}
        for column in ("seed", "index"):
            try:
                columns[column] = int(columns[column])
            except (TypeError, ValueError):
                raise UserError(
                    f"{where}: {column} is {columns[column]!r}; it must be an integer."
                ) from None
        entry_of(columns)
        return Problem(self.name, text_key(str(columns["problem"])), columns)

    def claims(self, columns: Columns) -> bool:
        return all(columns.get(column) is not None for column in _COLUMNS)

    def generate(self, section: TaskSection, split: Split, seed: int) -> Iterator[Problem]:
        """As `Task.generate`. Errors: UserError for a wrong set or config, or for no problem."""
        assert section.dataset is not None
        try:
            config = json.dumps(section.config, sort_keys=True)
        except TypeError as error:
            raise UserError(f"task.config is {quoted(section.config)}: {error}.") from None
        rng = random.Random(f"{self.name}:{split}:{seed}")

        def made() -> Iterator[Problem]:
            while True:
                block_seed = rng.randrange(2**32)
                dataset = dataset_of(section.dataset, config, block_seed)
                for index in range(len(dataset)):
                    entry = _made(dataset, index)
                    place = (section.dataset, config, block_seed, index)
                    values = (entry["question"], str(entry["answer"]), *place)
                    row = dict(zip(_COLUMNS, values, strict=True))
                    yield Problem(self.name, text_key(entry["question"]), row)

        found = distinct(made().__next__, split, _PATIENCE)
        first = next(found, None)
        if first is None:
            raise UserError(
                f"task.dataset is {section.dataset!r}, which has too few problems with task.config "
                f"{config}: none is in the {split} split."
            )
        yield first
        yield from found

    def correct_many(
        self, answers: Sequence[str | None], rows: Sequence[Columns]
    ) -> list[bool | None]:
        return [score >= 1.0 for score in scores(answers, rows)]

    def why_wrong(self, answer: str | None, columns: Columns) -> str:
        (score,) = scores([answer], [columns])
        return f"{super().why_wrong(answer, columns)} (it scores {score:g})" if score < 1 else ""

    def difficulty(self, columns: Columns) -> str:
        """The set's name, with its own number for difficulty if it has one.

        Left out: ranges of its config, which are the same for all problems of a recipe.
        """
        found = entry_of(columns)["metadata"].get("difficulty")
        if isinstance(found, Mapping):
            found = found.get("difficulty")
        alone = isinstance(found, int | float | str)
        return f"{columns['dataset']} {found}" if alone else str(columns["dataset"])


def describe_sets() -> Iterator[str]:
    """A paragraph for each set: an example with its answer, and its config with the defaults."""
    reasons = refused()
    for name in sorted(known_sets()):
        if name in reasons:
            yield f"{name}: refused, because {reasons[name]}"
            continue
        entry = _made(dataset_of(name, "{}", 0, 1), 0)
        question, answer = (
            text if len(text) <= _EXAMPLE else f"{text[:_EXAMPLE]} ..."
            for text in (" ".join(visible(str(entry[k])).split()) for k in ("question", "answer"))
        )
        fields = ", ".join(f"{key}={value!r:.40}" for key, value in fields_of(name).items())
        yield f"{name}: {question}\n    answer: {answer}\n    config: {fields}"


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook. It stops a text that does harm by the way; it is no wall against an attack."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event.startswith(_FORBIDDEN) or (event == "open" and int(arguments[2] or 0) & writes):
        raise PermissionError(f"{event} is not for an answer")


def verifier_of(name: str, config: str) -> Callable[[Sequence[str]], float]:
    """The score of [entry, answer] as `scores` sends them. It may change its set's `eval`."""
    dataset = dataset_of(name, config, 0, 1)
    if name in package_yaml("aha.tasks", "reasoning_gym.yaml")["evaluates_answers"]:
        # Else a text such as entry["answer"] would earn the score of what it stands for.
        vars(sys.modules[type(dataset).__module__])["eval"] = ast.literal_eval

    def score(request: Sequence[str]) -> float:
        entry, answer = pickle.loads(base64.b64decode(request[0])), request[1]  # noqa: S301 - ours
        try:
            value = float(dataset.score_answer(answer, entry))
        except Exception:  # the verifier cannot read this text: sets raise errors of many types
            return 0.0
        return min(1.0, max(0.0, value))

    return score


def _packed(entry: dict[str, Any]) -> str:
    """Not as JSON, which would turn tuples into lists and numbers that are keys into text."""
    return base64.b64encode(pickle.dumps(entry)).decode()


if __name__ == "__main__":
    _verifier = verifier_of(*sys.argv[1:])
    _entry = _made(dataset_of(*sys.argv[1:], 0, 1), 0)
    sys.addaudithook(_forbid)
    serve(_verifier, first=[_packed(_entry), str(_entry["answer"])])
