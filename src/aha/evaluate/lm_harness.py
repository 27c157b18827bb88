"""Functions that lm-evaluation-harness calls through the files of `aha data harness`.

The harness loads the model, writes the completions and logs them. This module reads its documents
and checks the texts with the same function as training and `aha eval`. Left out: few-shot examples
and chat templates, because the prompt is complete.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from aha.tasks import check_completion
from aha.types import RunFailure

Document = Mapping[str, Any]


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
