"""A recipe's problems as a task of lm-evaluation-harness, so that others can check our figures.

`write_task` writes the task's files for `aha data harness`; the harness calls `load`, `score` and
`score_gsm8k` through them. The harness loads the model, writes the completions and logs them; the
function that also scores training and `aha eval` gives the verdicts.

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
from typing import Any, Protocol

import yaml

from aha.recipe import Recipe
from aha.runs import write_lines
from aha.tasks import TASKS, check_completion, task_of
from aha.tasks.prompts import PromptTokenizer
from aha.types import Problem, Prompt, RunFailure, UserError

Document = Mapping[str, Any]

_METRICS = ("accuracy", "accuracy_lenient", "format_rate")


class HarnessTokenizer(PromptTokenizer, Protocol):
    """The part of a Hugging Face tokenizer that this needs."""

    def decode(self, token_ids: Any, /) -> Any: ...


def write_task(
    recipe: Recipe,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    tokenizer: HarnessTokenizer,
    folder: Path,
) -> list[str]:
    """Write problems.jsonl, TASK.yaml, scores.py and README.md to `folder`; returns the report.

    Errors: UserError for a folder that is not empty or cannot be written, and for a prompt that no
    text encodes to.
    """
    name = task_name(recipe)
    rows = [
        {
            "key": problem.key,
            "prompt": spelled(prompt, tokenizer),
            "target": task_of(problem.columns).gold(problem.columns) or "",
            "columns": dict(problem.columns),
        }
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    longest = max(len(prompt.token_ids) for prompt in prompts)
    command = _command(recipe, name, folder, longest)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{str(folder)!r} exists and holds something; choose another folder.")
        write_lines(folder / "problems.jsonl", rows)
        for file, text in (
            (f"{name}.yaml", _task(recipe, name)),
            ("scores.py", _scores(recipe)),
            ("README.md", _readme(recipe, name, command, len(rows))),
        ):
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the folder {str(folder)!r} cannot be written: {error}.") from None
    return [f"wrote {len(rows)} problems to {folder}; the harness asks them so:", command]


def task_name(recipe: Recipe) -> str:
    """The task's name in the harness: `aha_` and the recipe's name, in letters that it allows."""
    return "aha_" + re.sub(r"[^A-Za-z0-9]", "_", recipe.name)


def spelled(prompt: Prompt, tokenizer: HarnessTokenizer) -> str:
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


class _Function(str):
    """A function by its name, which YAML marks as such."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that knows functions."""


_Dumper.add_representer(
    _Function, lambda dumper, value: dumper.represent_scalar("!function", str(value))
)


def _task(recipe: Recipe, name: str) -> str:
    temperature = recipe.evaluation.temperature
    drawing: dict[str, Any] = {"do_sample": False, "temperature": 0.0}
    if temperature > 0:
        drawing = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    task = {
        "task": name,
        "custom_dataset": _Function("scores.problems"),
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_target": "target",
        "target_delimiter": "",
        "process_results": _Function("scores.score"),
        "generation_kwargs": {
            "until": [],
            "max_gen_toks": recipe.generation.max_completion_length,
            **drawing,
            # A hub model's own generation settings may have another.
            "repetition_penalty": 1.0,
        },
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in (*_METRICS, *TASKS[recipe.task.name].harness_metrics)
        ],
        "metadata": {"version": 1.0},
    }
    head = "# Written by `aha data harness`; README.md has the command.\n"
    return head + str(yaml.dump(task, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _scores(recipe: Recipe) -> str:
    also = TASKS[recipe.task.name].harness_metrics
    own = " | lm_harness.score_gsm8k(document, results[0], STOP)" if also else ""
    return (
        '"""Functions that the harness calls: aha reads the problems and gives the verdicts."""\n'
        "\n"
        "from pathlib import Path\n"
        "\n"
        "from aha.evaluate import lm_harness\n"
        "\n"
        f"STOP = {list(recipe.generation.stop)!r}\n"
        "\n"
        "\n"
        "def problems(**options):\n"
        '    return lm_harness.load(Path(__file__).with_name("problems.jsonl"))\n'
        "\n"
        "\n"
        "def score(document, results):\n"
        f"    return lm_harness.score(document, results[0], STOP){own}\n"
    )


def _command(recipe: Recipe, name: str, folder: Path, longest_prompt: int) -> str:
    dtype = "bfloat16" if recipe.model.dtype == "bfloat16" else "float32"
    # No special tokens: the prompts hold theirs. The length, because the harness cuts prompts at
    # the left to make room.
    length = longest_prompt + recipe.generation.max_completion_length
    arguments = f"pretrained=MODEL,dtype={dtype},add_bos_token=False,max_length={length}"
    return (
        f"lm_eval --model hf --model_args {arguments} "
        f"--include_path {shlex.quote(str(folder))} --tasks {name} "
        "--log_samples --output_path results"
    )


def _readme(recipe: Recipe, name: str, command: str, count: int) -> str:
    drawn = recipe.evaluation.temperature
    how = "greedily" if drawn == 0 else f"at temperature {drawn:g}, so that texts differ"
    lines = [
        f"# {name}",
        f"{count} problems of the recipe `{recipe.name}` (task `{recipe.task.name}`) for "
        "[lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness), with the "
        f"prompts as aha shows them to the model. The harness answers them {how}; aha gives the "
        "verdicts.",
        "",
        "MODEL is a folder that `aha export` wrote, a checkpoint or a hub name; this folder may "
        "be anywhere; the verdicts need `pip install 'aha-zero[harness]'` where the harness runs.",
        "",
        f"```bash\n{command}\n```",
        "",
        f"A completion has at most {recipe.generation.max_completion_length} tokens, unless "
        "MODEL's generation_config.json names another max_new_tokens, which transformers prefers.",
        "",
        "| metric | is |",
        "|---|---|",
        "| accuracy | right, and in exactly the asked layout (strict) |",
        "| accuracy_lenient | the last answer that can be read is right |",
        "| format_rate | the asked layout, whatever the answer |",
    ]
    if TASKS[recipe.task.name].harness_metrics:
        lines += [
            "| gsm8k_strict_match | the harness's own rule: what follows `####` is the gold |",
            "| gsm8k_flexible_extract | the harness's own rule: the last number is the gold |",
        ]
    return "\n".join(lines) + "\n"


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
    """aha's verdict on one completion, 0 or 1 each, by the names of `aha eval --json`.

    `accuracy` is strict. The harness would cut a completion before a stop string, so it is given
    none, and the text after one is dropped here.
    """
    columns = json.loads(document["columns"])
    verdict = check_completion(document["prompt"], through_stop(completion, stop), columns)
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
    """The harness's own verdicts: the filters and the metric of its task gsm8k on the same text.

    Both are read from the installed harness. Errors: RunFailure when it has none that are known.
    """
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
