"""The side of lm-evaluation-harness: what the files of `aha data harness` call from there.

The harness loads the model, writes the completions and logs them; here its documents are read and
the texts judged by the same function as in training and `aha eval`.
Left out: its own copy of the judge, few-shot examples and chat templates: the prompt is whole.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from aha.tasks import check_completion
from aha.types import RunFailure

Document = Mapping[str, Any]


def load(file: Path) -> Any:
    """The problems as the harness's `custom_dataset`: one split, `test`, of datasets.Dataset.

    Columns stay one JSON text: rows of one set may differ in them, and tables may not.
    """
    from datasets import Dataset

    lines = file.read_text(encoding="utf-8").split("\n")
    problems = [json.loads(line) for line in lines if line]
    rows = [problem | {"columns": json.dumps(problem["columns"])} for problem in problems]
    return {"test": Dataset.from_list(rows)}


def score(document: Document, completion: str, stop: Sequence[str]) -> dict[str, float]:
    """aha's verdict on one completion, 0 or 1 each, by the names of `aha eval --json`.

    `accuracy` is strict. The harness cuts a completion before a stop string, so it is given none,
    and what follows one is dropped here.
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
    """The harness's own verdicts: its task gsm8k's filters and metric on the same text.

    Both are read from the installed harness, so they are its version's. Errors: RunFailure when
    it has them no more.
    """
    text, columns = through_stop(completion, stop), json.loads(document["columns"])
    # Its target is the whole gold solution, whose end after "####" its metric takes.
    gold = columns.get("solution") or columns["answer"]
    rules = _gsm8k_rules()
    return {
        f"gsm8k_{name.replace('-', '_')}": rules.exact_match(filters, text, gold)
        for name, filters in rules.filters.items()
    }


@dataclass(frozen=True)
class _Rules:
    """Filters by name, each a chain of (function, options); and the options of exact_match."""

    filters: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]
    options: Mapping[str, Any]

    def exact_match(
        self, filters: Sequence[tuple[str, Mapping[str, Any]]], text: str, gold: str
    ) -> float:
        from lm_eval.api.registry import get_filter, get_metric

        responses: Any = [[text]]
        for function, options in filters:
            responses = list(get_filter(function)(**options).apply(responses, [{}]))
        found = get_metric("exact_match")(references=[gold], predictions=responses, **self.options)
        return float(found["exact_match"])


@functools.cache
def _gsm8k_rules() -> _Rules:
    file = resources.files("lm_eval") / "tasks" / "gsm8k" / "gsm8k.yaml"
    try:
        task = yaml.safe_load(file.read_text(encoding="utf-8"))
        filters = {
            chain["name"]: tuple(_named(step, "function") for step in chain["filter"])
            for chain in task["filter_list"]
        }
        metrics = dict(_named(metric, "metric") for metric in task["metric_list"])
        options = metrics["exact_match"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunFailure(
            f"the installed lm_eval's task gsm8k is not as known: {error!r}."
        ) from None
    ours = ("aggregation", "higher_is_better")
    return _Rules(filters, {key: options[key] for key in options if key not in ours})


def _named(entry: Mapping[str, Any], key: str) -> tuple[str, dict[str, Any]]:
    return entry[key], {name: value for name, value in entry.items() if name != key}
