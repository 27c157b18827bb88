"""`aha eval`: a model's accuracy on a task's problems, alone or against another's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from aha.commands.subject import Subject, find_subject, load, own_recipe, recipe_for
from aha.commands.table import comparison_lines, table
from aha.evaluate.evaluate import Evaluation
from aha.evaluate.paired import Comparison, compare
from aha.model.load import find_model, load_tokenizer, product_dtype
from aha.model.lora import is_adapter
from aha.recipe import Recipe, load_recipe
from aha.rollout.vllm import VllmEngine
from aha.runs import write_lines
from aha.tasks.load import load_problems
from aha.tasks.overlap import overlap
from aha.train.loop import evaluate_held_out
from aha.types import Problem, UserError

EngineName = Literal["native", "vllm"]


@dataclass(frozen=True)
class Request:
    """What `aha eval` was asked; None means as the recipe says."""

    target: str
    against: str | None = None
    recipe: str | None = None
    overrides: Sequence[str] = ()
    task: str | None = None
    split: Literal["train", "test"] = "test"
    n: int | None = None
    samples: int = 1
    temperature: float | None = None
    seed: int | None = None
    output: Path | None = None
    engine: EngineName = "native"


@dataclass(frozen=True)
class Outcome:
    """One model's evaluation, and the file with its completions."""

    subject: Subject
    engine: EngineName
    evaluation: Evaluation
    file: Path


@dataclass(frozen=True)
class Result:
    """What came out: of the model, of the one it is compared with, and notes for people."""

    outcome: Outcome
    against: Outcome | None
    comparison: Comparison | None
    notes: tuple[str, ...]

    def as_json(self) -> str:
        """One object: the summary's keys, the model and the file, and the comparison."""
        value = _described(self.outcome) | {"notes": list(self.notes)}
        if self.against is not None and self.comparison is not None:
            value["against"] = _described(self.against)
            value["comparison"] = asdict(self.comparison)
        return json.dumps(value, indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """A table, one column a model, and what they differ in."""
        shown = [self.outcome, *([self.against] if self.against else [])]
        lines = table([(o.subject.name, o.evaluation.summary) for o in shown])
        if self.comparison is not None:
            lines += ["", *comparison_lines(self.comparison)]
        lines += ["", *self.notes, *(f"completions: {outcome.file}" for outcome in shown)]
        return "\n".join(lines)


def run_eval(request: Request) -> Result:
    """Evaluate, write every completion to a file, and compare where asked.

    Errors: UserError naming what is wrong with the request.
    """
    subject = find_subject(request.target)
    recipe = _recipe(subject, request)
    problems = _problems(recipe, request)
    outcome = _evaluate(subject, recipe, problems, request)
    notes = _notes(subject, problems, request)
    if request.against is None:
        return Result(outcome, None, None, notes)
    other = find_subject(request.against)
    # The same problems, asked in the way of the model's own run where it has one.
    how = request.recipe or _recipe_of_other(subject, other)
    other_recipe = recipe_for(other, how, request.overrides)
    other_recipe = other_recipe.model_copy(
        update={"task": recipe.task, "evaluation": recipe.evaluation, "train": recipe.train}
    )
    against = _evaluate(other, other_recipe, problems, request)
    comparison = compare(outcome.evaluation.records, against.evaluation.records)
    return Result(outcome, against, comparison, notes)


def _recipe(subject: Subject, request: Request) -> Recipe:
    overrides = list(request.overrides)
    for key, value in (
        ("task.name", request.task),
        ("evaluation.n", request.n),
        ("evaluation.temperature", request.temperature),
        ("train.seed", request.seed),
    ):
        if value is not None:
            overrides.append(f"{key}={value}")
    return recipe_for(subject, request.recipe, overrides)


def _recipe_of_other(subject: Subject, other: Subject) -> str | None:
    """A model of which nothing says how to ask it is asked as the one it is compared with."""
    own = own_recipe(subject)
    return str(own) if own_recipe(other) is None and own is not None else None


def _problems(recipe: Recipe, request: Request) -> tuple[Problem, ...]:
    if recipe.evaluation.n == 0:
        raise UserError("evaluation.n is 0, so there is nothing to evaluate; add --n 500.")
    return load_problems(recipe.task, request.split, recipe.evaluation.n).problems


def _evaluate(
    subject: Subject, recipe: Recipe, problems: Sequence[Problem], request: Request
) -> Outcome:
    found = _ask(recipe, problems, request)
    file = _file(subject, request)
    write_completions(file, found)
    return Outcome(subject, request.engine, found, file)


def _ask(recipe: Recipe, problems: Sequence[Problem], request: Request) -> Evaluation:
    if request.engine == "native":
        loaded = load(recipe)
        return evaluate_held_out(recipe, loaded.engine, loaded.tokenizer, problems, request.samples)
    tokenizer = load_tokenizer(recipe.model)
    engine = _vllm_engine(recipe, tokenizer)
    try:
        return evaluate_held_out(recipe, engine, tokenizer, problems, request.samples)
    finally:
        # A second model needs the memory.
        engine.close()


def _vllm_engine(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> VllmEngine:
    """vLLM with the weights' type in which the native engine would draw."""
    section = recipe.model
    source = find_model(section.name)
    if is_adapter(Path(source)):
        raise UserError(
            f"--engine vllm needs whole weights, and {source!r} is an adapter; `aha export` folds "
            "it into its base."
        )
    if section.quantization != "none":
        raise UserError(
            f"model.quantization is {section.quantization!r}; with --engine vllm it must be "
            "'none' (--set model.quantization=none)."
        )
    name = str(product_dtype(recipe)).removeprefix("torch.")
    return VllmEngine(source, tokenizer, name, section.trust_remote_code)


def _file(subject: Subject, request: Request) -> Path:
    """In the folder that was asked for, else beside the run, else under evals/."""
    name = f"{datetime.now():%Y%m%d-%H%M%S-%f}-{request.split}.jsonl"
    if request.output is not None:
        return request.output / f"{Path(subject.source).name}-{name}"
    if subject.run is not None:
        return subject.run.path / "evals" / f"{Path(subject.source).name}-{name}"
    return Path("evals") / f"{subject.name.strip('./').replace('/', '--')}-{name}"


def write_completions(file: Path, found: Evaluation) -> None:
    """One JSON line a completion. Errors: UserError when the file cannot be written."""
    try:
        write_lines(file, found.records)
    except OSError as error:
        raise UserError(f"--output: {str(file)!r} cannot be written: {error}.") from None


def _notes(subject: Subject, problems: Sequence[Problem], request: Request) -> tuple[str, ...]:
    """What a reader of the figures must know: what was trained on, and what wrote the texts."""
    notes = []
    if request.engine == "vllm":
        notes.append("note: written by vLLM; the native engine's figures differ by rounding.")
    if request.split == "train":
        notes.append("note: these are training problems; accuracy on them says little of others.")
    else:
        notes += _overlap_notes(own_recipe(subject), problems)
    return tuple(notes)


def _overlap_notes(trained_by: Path | None, problems: Sequence[Problem]) -> list[str]:
    """Whether the problems are like those of the model's own recipe, whatever was asked here."""
    if trained_by is None:
        return []
    try:
        task = load_recipe(str(trained_by)).task
        training = load_problems(task, "train", task.num_train).problems
    except UserError as error:
        # The figures stand without its training problems, which may be on another machine.
        return [f"note: overlap with what it was trained on is not known: {error}"]
    shared = overlap(problems, training)
    if not shared.keys:
        return []
    return [
        f"note: {len(shared.keys)} of {shared.of} problems overlap with the training problems of "
        f"{trained_by} (the first: {shared.keys[0]})."
    ]


def _described(outcome: Outcome) -> dict[str, Any]:
    return {
        "model": outcome.subject.name,
        "engine": outcome.engine,
        **outcome.evaluation.summary,
        "file": str(outcome.file),
    }
