"""`aha eval`: a model's accuracy on a task's problems, alone or against another model's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from aha.evaluate import EvalRequest
from aha.evaluate.evaluation import Comparison, Evaluation, compare, evaluate_held_out
from aha.model.load import find_model, load_tokenizer, product_dtype
from aha.model.lora import is_adapter
from aha.recipe import Recipe, load_recipe
from aha.rollout.vllm import VllmEngine
from aha.runs import writable, write_lines
from aha.tasks import TASKS, load_problems
from aha.tasks.data import overlap
from aha.trained import (
    Subject,
    accuracy_text,
    figure_rows,
    find_subject,
    load,
    own_recipe,
    recipe_for,
)
from aha.types import Problem, UserError
from aha.visible import text_template


@dataclass(frozen=True)
class Outcome:
    """One model's evaluation, and the file with its completions."""

    subject: Subject
    engine: str
    evaluation: Evaluation
    file: Path

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.subject.name,
            "engine": self.engine,
            **self.evaluation.summary,
            "file": str(self.file),
        }


@dataclass(frozen=True)
class EvalResult:
    """The model's outcome, that of the model it is compared with, and notes for people."""

    outcome: Outcome
    against: Outcome | None
    comparison: Comparison | None
    notes: tuple[str, ...]

    def as_json(self) -> str:
        """One object: the summary's keys, the model and the file, and the comparison."""
        value = self.outcome.as_dict() | {"notes": list(self.notes)}
        if self.against is not None and self.comparison is not None:
            value["against"] = self.against.as_dict()
            value["comparison"] = asdict(self.comparison)
        return json.dumps(value, indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """A table with a column for each model, then the comparison, the notes and the files."""
        shown = [self.outcome, *([self.against] if self.against else [])]
        return text_template("aha.trained", "eval.txt.j2").render(
            table=_table(shown), found=self.comparison, notes=self.notes, outcomes=shown
        )


def run_eval(request: EvalRequest) -> EvalResult:
    """Evaluate, write every completion to a file, and compare with `against` if it is given.

    Errors: UserError naming what is wrong with the request.
    """
    subject = find_subject(request.model)
    overrides = list(request.overrides or ())
    for key, value in (
        ("task.name", request.task),
        ("evaluation.n", request.n),
        ("evaluation.temperature", request.temperature),
        ("train.seed", request.seed),
    ):
        if value is not None:
            overrides.append(f"{key}={value}")
    recipe = recipe_for(subject, request.recipe, overrides)
    if recipe.evaluation.n == 0:
        raise UserError("evaluation.n is 0, so there is nothing to evaluate; add --n 500.")
    problems = load_problems(recipe.task, request.split, recipe.evaluation.n).problems
    outcome = _evaluate(subject, recipe, problems, request)
    notes = _notes(subject, problems, request)
    if request.against is None:
        return EvalResult(outcome, None, None, notes)
    other = find_subject(request.against)
    other_name, own = request.recipe, own_recipe(subject)
    if other_name is None and own_recipe(other) is None and own is not None:
        # The other model has no recipe of its own: ask it as the first one.
        other_name = str(own)
    other_recipe = recipe_for(other, other_name, request.overrides or ())
    # The same problems, each model with the prompt it was trained with.
    other_recipe = other_recipe.model_copy(
        update={"task": recipe.task, "evaluation": recipe.evaluation, "train": recipe.train}
    )
    against = _evaluate(other, other_recipe, problems, request)
    comparison = compare(outcome.evaluation.records, against.evaluation.records)
    return EvalResult(outcome, against, comparison, notes)


def _evaluate(
    subject: Subject, recipe: Recipe, problems: Sequence[Problem], request: EvalRequest
) -> Outcome:
    if request.engine == "native":
        loaded = load(recipe)
        found = evaluate_held_out(
            recipe, loaded.engine, loaded.tokenizer, problems, request.samples
        )
    else:
        tokenizer = load_tokenizer(recipe.model)
        engine = _vllm_engine(recipe, tokenizer)
        try:
            found = evaluate_held_out(recipe, engine, tokenizer, problems, request.samples)
        finally:
            # A second model needs the memory.
            engine.close()
    name = f"{datetime.now():%Y%m%d-%H%M%S-%f}-{request.split}.jsonl"
    if request.output is not None:
        file = request.output / f"{Path(subject.source).name}-{name}"
    elif subject.run is not None:
        file = subject.run.path / "evals" / f"{Path(subject.source).name}-{name}"
    else:
        file = Path("evals") / f"{subject.name.strip('./').replace('/', '--')}-{name}"
    with writable(file):
        write_lines(file, found.records)
    return Outcome(subject, request.engine, found, file)


def _vllm_engine(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> VllmEngine:
    """vLLM with the dtype that the native engine samples in."""
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


def _notes(subject: Subject, problems: Sequence[Problem], request: EvalRequest) -> tuple[str, ...]:
    """Limits of the figures: vLLM's rounding, and problems the model was trained on."""
    notes = []
    if request.engine == "vllm":
        notes.append("note: written by vLLM; the native engine's figures differ by rounding.")
    trained_by = own_recipe(subject)
    if request.split == "train":
        notes.append("note: these are training problems; accuracy on them says little of others.")
    elif trained_by is not None:
        try:
            task = load_recipe(str(trained_by)).task
            known = load_problems(task, "train", task.num_train).problems
            shared = overlap(problems, known, TASKS[task.name].generates)
        except UserError as error:
            # The training problems may be on another machine; the figures are valid without them.
            notes.append(f"note: overlap with what it was trained on is not known: {error}")
        else:
            if shared:
                notes.append(
                    f"note: {len(shared)} of {len(problems)} problems overlap with the training "
                    f"problems of {trained_by} (the first: {shared[0]})."
                )
    return tuple(notes)


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    """The summaries as aligned lines, a column for each model; each line names its metric."""
    summaries = [outcome.evaluation.summary for outcome in outcomes]
    rows = [
        ["", *(outcome.subject.name for outcome in outcomes)],
        [
            "problems x completions, temperature",
            *(f"{s['n']} x {s['samples']}, {s['temperature']:g}" for s in summaries),
        ],
        *figure_rows(summaries),
        [
            "length, tokens: 10th, 50th, 90th percentile",
            *(f"{s['length_p10']}, {s['length_p50']}, {s['length_p90']}" for s in summaries),
        ],
    ]
    for key in [k for k in summaries[0] if k.startswith(("pass@", "maj@"))]:
        rows.append([f"{key} (strict)", *(f"{s[key]:.1%}" for s in summaries)])
    for part in summaries[0]["by_difficulty"]:
        parts = [summary["by_difficulty"][part] for summary in summaries]
        rows.append([f"  {part} (strict)", *(f"{accuracy_text(p)}, n = {p['n']}" for p in parts)])
    label_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for label, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([label.ljust(label_width), *aligned]).rstrip())
    return lines
