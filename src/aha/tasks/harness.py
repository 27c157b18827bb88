"""A recipe's problems as a task of lm-evaluation-harness, so that others can check our figures.

The harness gives a model texts, not token ids: each prompt is written so that its text alone
encodes to the ids that training shows the model. Left out: few-shot examples and chat templates of
the harness's own, which would ask something else; stop strings of its own, which it cuts off the
completion with what they close (`aha.evaluate.lm_harness` cuts after them instead).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from aha.recipe import Recipe
from aha.runs import write_lines
from aha.tasks import TASKS, task_of
from aha.tasks.prompts import PromptTokenizer
from aha.types import Problem, Prompt, UserError

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
    """problems.jsonl, TASK.yaml, scores.py and README.md in `folder`; what there is to say of it.

    Errors: UserError for a folder that holds something or cannot be written, and for a prompt that
    no text encodes to.
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
    """What the harness calls it: `aha_` and the recipe's name, in letters that it knows."""
    return "aha_" + re.sub(r"[^A-Za-z0-9]", "_", recipe.name)


def spelled(prompt: Prompt, tokenizer: HarnessTokenizer) -> str:
    """The prompt as a text that encodes to its token ids when nothing is added.

    Errors: UserError when neither its own text does nor the decoded ids with special tokens.
    """
    for text in (prompt.text, str(tokenizer.decode(list(prompt.token_ids)))):
        if tuple(tokenizer.encode(text, add_special_tokens=False)) == prompt.token_ids:
            return text
    raise UserError(
        f"prompt: no text encodes to the token ids of the prompt {prompt.text!r:.80} with this "
        "tokenizer, and the harness passes texts only."
    )


def _metrics(recipe: Recipe) -> tuple[str, ...]:
    return (*_METRICS, *TASKS[recipe.task.name].harness_metrics)


class _Function(str):
    """A function by its name, which YAML marks as such."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that knows functions."""


_Dumper.add_representer(
    _Function, lambda dumper, value: dumper.represent_scalar("!function", str(value))
)


def _task(recipe: Recipe, name: str) -> str:
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
            **_drawing(recipe.evaluation.temperature),
            # A hub model's own generation settings may have another.
            "repetition_penalty": 1.0,
        },
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in _metrics(recipe)
        ],
        "metadata": {"version": 1.0},
    }
    head = "# Written by `aha data harness`; README.md has the command.\n"
    return head + str(yaml.dump(task, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _drawing(temperature: float) -> dict[str, Any]:
    if temperature == 0:
        return {"do_sample": False, "temperature": 0.0}
    return {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}


def _scores(recipe: Recipe) -> str:
    also = TASKS[recipe.task.name].harness_metrics
    own = " | lm_harness.score_gsm8k(document, results[0], STOP)" if also else ""
    return (
        '"""What the harness calls for this task: aha reads the problems and judges the texts."""\n'
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
        f"prompts as aha shows them to the model. The harness answers them {how}; aha judges.",
        "",
        "MODEL is a folder that `aha export` wrote, a checkpoint or a hub name; this folder may "
        "stand anywhere; the judge needs `pip install 'aha-zero[harness]'` where the harness runs.",
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
