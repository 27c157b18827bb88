"""A recipe's problems as a task of lm-evaluation-harness, so that others can check our figures.

`write_task` writes the task's files for `aha data harness`; the harness calls `load`, `score` and
`score_gsm8k` through them, and has the model write the completions.

The harness passes texts to a model, not token ids, so each prompt is written as a text that
encodes to the ids of training. Left out: few-shot examples and chat templates of the harness,
because the prompt is whole; and its stop strings, because it cuts them off the completion (`score`
cuts after them instead).
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from aha.recipe import Recipe
from aha.runs import require_empty, writable, write_lines
from aha.tasks import TASKS, check_completion, task_of
from aha.types import Problem, Prompt, RunFailure, UserError
from aha.visible import text_template

Document = Mapping[str, Any]


def write_task(
    recipe: Recipe,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> list[str]:
    """Write the task's files to `folder`; returns the report.

    Errors: UserError for a folder that is not empty, and for a prompt that no text encodes to.
    """
    name = task_name(recipe)
    rows = [
        {
            "key": problem.key,
            "prompt": spelled(prompt, tokenizer),
            "target": task_of(problem.columns).gold(problem.columns) or "",
            "columns": dict(problem.columns),
            "layout": prompt.layout,
        }
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    longest = max(len(prompt.token_ids) for prompt in prompts)
    dtype = "bfloat16" if recipe.model.dtype == "bfloat16" else "float32"
    # No special tokens: the prompts hold theirs. The length, because the harness cuts prompts at
    # the left to make room.
    length = longest + recipe.generation.max_completion_length
    command = (
        f"lm_eval --model hf --model_args pretrained=MODEL,dtype={dtype},add_bos_token=False,"
        f"max_length={length} --include_path {shlex.quote(str(folder))} --tasks {name} "
        "--log_samples --output_path results"
    )
    values = {
        "recipe": recipe,
        "name": name,
        "command": command,
        "count": len(rows),
        "own_rules": TASKS[recipe.task.name].harness_metrics,
        "stop": repr(list(recipe.generation.stop)),
    }
    require_empty(folder)
    with writable(folder, "the folder"):
        write_lines(folder / "problems.jsonl", rows)
        for template, file in (
            ("task.yaml.j2", f"{name}.yaml"), ("scores.py.j2", "scores.py"),
            ("README.md.j2", "README.md"),
        ):  # fmt: skip
            text = text_template("aha.evaluate", template).render(values)
            (folder / file).write_text(text, encoding="utf-8")
    return [f"wrote {len(rows)} problems to {folder}; the harness asks them so:", command]


def task_name(recipe: Recipe) -> str:
    """The task's name in the harness: `aha_` and the recipe's name, in letters that it allows."""
    return "aha_" + re.sub(r"[^A-Za-z0-9]", "_", recipe.name)


def spelled(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt as a text that encodes to its token ids if nothing is added.

    Errors: UserError if neither its own text nor the decoded ids, with special tokens, do.
    """
    for text in (prompt.text, str(tokenizer.decode(list(prompt.token_ids)))):
        if tuple(tokenizer.encode(text, add_special_tokens=False)) == prompt.token_ids:
            return text
    raise UserError(
        f"prompt: no text encodes to the token ids of the prompt {prompt.text!r:.80} with this "
        "tokenizer, and the harness passes texts only."
    )


def load(file: Path) -> Any:
    """The problems as the harness's `custom_dataset`: one split, `test`, of datasets.Dataset.

    Columns stay one JSON text, because problems may differ in them and a table's rows may not.
    """
    from datasets import Dataset

    lines = file.read_text(encoding="utf-8").split("\n")
    problems = [json.loads(line) for line in lines if line]
    rows = [problem | {"columns": json.dumps(problem["columns"])} for problem in problems]
    return {"test": Dataset.from_list(rows)}


def score(document: Document, completion: str, stop: Sequence[str]) -> dict[str, float]:
    """aha's verdict on one completion, 0 or 1 each, by the names of `aha eval --json`."""
    columns = json.loads(document["columns"])
    text = through_stop(completion, stop)
    verdict = check_completion(document["prompt"], text, columns, document["layout"])
    return {
        "accuracy": float(verdict.strict),
        "accuracy_lenient": float(verdict.lenient),
        "format_rate": float(verdict.well_formed),
    }


def through_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to and with the stop string that is complete first; all of it without one."""
    ends = [text.index(one) + len(one) for one in stop if one in text]
    return text[: min(ends)] if ends else text


def score_gsm8k(document: Document, completion: str, stop: Sequence[str]) -> dict[str, float]:
    """The verdicts of the installed harness's task gsm8k. Errors: RunFailure for an unknown one."""
    from lm_eval.api.registry import get_filter, get_metric

    text, columns = through_stop(completion, stop), json.loads(document["columns"])
    # Its target is the whole gold solution; its metric takes the part after "####".
    gold = columns.get("solution") or columns["answer"]
    filters, metric = _gsm8k_rules()
    scores = {}
    for name, steps in filters.items():
        responses: Any = [[text]]
        for function, options in steps:
            responses = list(get_filter(function)(**options).apply(responses, [{}]))
        found = get_metric("exact_match")(references=[gold], predictions=responses, **metric)
        scores[f"gsm8k_{name.replace('-', '_')}"] = float(found["exact_match"])
    return scores


@functools.cache
def _gsm8k_rules() -> tuple[dict[str, list[tuple[str, dict[str, Any]]]], dict[str, Any]]:
    """Filters by name, each a chain of (function, options); and the options of exact_match."""
    file = resources.files("lm_eval") / "tasks" / "gsm8k" / "gsm8k.yaml"
    try:
        task = yaml.safe_load(file.read_text(encoding="utf-8"))
        filters = {
            chain["name"]: [_named(step, "function") for step in chain["filter"]]
            for chain in task["filter_list"]
        }
        options = dict(_named(metric, "metric") for metric in task["metric_list"])["exact_match"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunFailure(
            f"the installed lm_eval's task gsm8k is not as known: {error!r}."
        ) from None
    ours = ("aggregation", "higher_is_better")
    return filters, {key: value for key, value in options.items() if key not in ours}


def _named(entry: Mapping[str, Any], key: str) -> tuple[str, dict[str, Any]]:
    return entry[key], {name: value for name, value in entry.items() if name != key}
