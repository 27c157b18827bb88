"""lm-evaluation-harness answers and scores as `aha eval` does, sample by sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from aha.evaluate import EvalRequest
from aha.evaluate.lm_harness import score, task_name, through_stop, write_task
from aha.recipe import Recipe, load_recipe
from aha.tasks import Verdict, check_completions, load_problems
from aha.tasks.prompts import ask
from aha.tiny import weights_path
from aha.trained.held_out import run_eval
from aha.types import Problem

GSM8K = Path(__file__).parents[1] / "data" / "gsm8k.jsonl"
ON_GSM8K = [
    "task.name=gsm8k", f"task.source={GSM8K}", f"task.test_source={GSM8K}", "prompt.style=r1",
    "generation.max_completion_length=48",
]  # fmt: skip
VERDICTS = ("accuracy", "accuracy_lenient", "format_rate")
RULES = ("gsm8k_strict_match", "gsm8k_flexible_extract")


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("lm_eval", reason="lm_eval is not installed: aha-zero[harness]")
    # It describes the machine for seconds, which no figure depends on.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    return found


@pytest.fixture
def written(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Writes a recipe's task for the harness."""

    def write(recipe: Recipe) -> Path:
        problems = load_problems(recipe.task, "test", recipe.evaluation.n).problems
        prompts = ask(problems, recipe, tokenizer)
        write_task(recipe, problems, prompts, tokenizer, tmp_path / "task")
        return tmp_path / "task"

    return write


def run(lm_eval: Any, model: Any, task: str, folder: Path, **options: Any) -> Any:
    """The samples of one task, in the order of its documents."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model, tasks=[task], task_manager=manager, bootstrap_iters=0, **options
    )
    return sorted(found["samples"][task], key=lambda sample: sample["doc_id"])


def agree(lm_eval: Any, written: Callable[..., Path], tmp_path: Path, changes: list[str]) -> int:
    """How many samples were compared; every one must be the same here and there."""
    changes = [*changes, "evaluation.temperature=0"]
    recipe = load_recipe("countdown-tiny", changes)
    folder = written(recipe)
    options = {
        "pretrained": str(weights_path()), "dtype": "float32", "add_bos_token": False,
    }  # fmt: skip
    theirs = run(
        lm_eval, "hf", task_name(recipe), folder, model_args=options, device="cpu", batch_size=20
    )
    request = EvalRequest(
        "aha-tiny", recipe="countdown-tiny", overrides=changes, output=tmp_path / "texts"
    )
    ours = run_eval(request).outcome.evaluation.records
    for record, sample in zip(ours, theirs, strict=True):
        assert sample["doc"]["key"] == record["key"]
        assert sample["resps"] == [[record["completion"]]]
        assert sample["accuracy"] == record["correct"]
        assert sample["accuracy_lenient"] == record["correct_lenient"]
        assert sample["format_rate"] == record["well_formed"]
    return len(ours)


def test_the_harness_writes_and_judges_countdown_as_we_do(
    lm_eval: Any, written: Callable[..., Path], tmp_path: Path
) -> None:
    assert agree(lm_eval, written, tmp_path, ["evaluation.n=20"]) == 20


@pytest.mark.slow
def test_the_same_on_two_hundred_problems(
    lm_eval: Any, written: Callable[..., Path], tmp_path: Path
) -> None:
    assert agree(lm_eval, written, tmp_path, ["evaluation.n=200"]) == 200


def test_the_harness_writes_and_judges_gsm8k_as_we_do(
    lm_eval: Any, written: Callable[..., Path], tmp_path: Path
) -> None:
    """Nonsense, as the embedded model knows no such words; the same nonsense."""
    assert agree(lm_eval, written, tmp_path, [*ON_GSM8K, "evaluation.n=20"]) == 20


def test_a_completion_ends_after_its_stop_string(
    lm_eval: Any, written: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = load_recipe(
        "countdown-tiny",
        ["evaluation.n=2", "evaluation.temperature=0", "generation.stop=['</answer>']"],
    )
    right = ["1 </think> <answer> {} </answer> and more", "1 </think> <answer> 1 </answer>"]
    samples = run(lm_eval, scripted(right.__getitem__), task_name(recipe), written(recipe))
    # Without what follows the stop string the layout is as asked.
    assert [sample["format_rate"] for sample in samples] == [1.0, 1.0]
    assert through_stop("a b c b", ["b", "c"]) == "a b"
    assert through_stop("a", ["b"]) == through_stop("a", []) == "a"


def answers(problem: Problem) -> list[str]:
    """Right, wrong, ill-formed and hostile texts for one problem."""
    gold = problem.columns["answer"]
    return [
        f"so </think> <answer> {gold} </answer>",
        f"so </think> <answer> ${gold}.00 </answer>",
        f"so </think> <answer> 1{gold.lstrip('-')} </answer>",
        f"<answer> {gold} </answer>",
        f"so </think> <answer> {gold} </answer> in 3 steps",
        f"the answer is \\boxed{{{gold}}}",
        f"in words\n#### {gold}",
        f"#### 1{gold.lstrip('-')}\n#### {gold}",
        gold,
        "",
        f"</think> <answer> {gold} or 9 </answer>",
        f"</think> <answer> not {gold} </answer>",
        f"so </think> <answer> {gold} </answer> <answer> 0 </answer>",
        "so </think> <answer> __import__('os').abort() </answer>",
        "<answer>" * 2_000 + gold + "</answer>" * 2_000,
        f"so </think> <answer> \u202e{gold}\x00\x1b[31m </answer>",
        "9" * 20_000,
        "\\boxed{" * 3_000 + gold,
    ]


def scripted(answer: Callable[[int], str]) -> Any:
    """A model of the harness that recites `answer(number of the document)`."""
    from lm_eval.api.model import LM

    class Scripted(LM):  # type: ignore[misc]
        def generate_until(self, requests: list[Any]) -> list[str]:
            return [answer(request.doc_id) for request in requests]

        def loglikelihood(self, requests: list[Any]) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: list[Any]) -> Any:
            raise NotImplementedError

    return Scripted()


@pytest.fixture
def gsm8k() -> tuple[Recipe, tuple[Problem, ...]]:
    recipe = load_recipe("countdown-tiny", [*ON_GSM8K, "evaluation.n=40"])
    return recipe, load_problems(recipe.task, "test", 40).problems


def test_every_kind_of_answer_has_our_verdict_there(
    lm_eval: Any, written: Callable[..., Path], gsm8k: tuple[Recipe, tuple[Problem, ...]]
) -> None:
    recipe, problems = gsm8k
    kinds = len(answers(problems[0]))
    texts = [answers(problem)[number % kinds] for number, problem in enumerate(problems)]
    samples = run(lm_eval, scripted(texts.__getitem__), task_name(recipe), written(recipe))
    assert len(samples) == len(problems) > 2 * kinds
    prompts = [sample["arguments"][0][0] for sample in samples]
    assert all(prompt.endswith("Assistant: <think>") for prompt in prompts)
    rows = [problem.columns for problem in problems]
    verdicts = check_completions(prompts, texts, rows, "think")
    for sample, verdict in zip(samples, verdicts, strict=True):
        assert tuple(sample[name] for name in VERDICTS) == as_figures(verdict)
    # Right, right in another writing, wrong, and twice right in a broken layout.
    assert [sample["accuracy"] for sample in samples[:5]] == [1, 1, 0, 0, 0]
    assert [sample["accuracy_lenient"] for sample in samples[:5]] == [1, 1, 0, 1, 1]


def as_figures(verdict: Verdict) -> tuple[float, float, float]:
    return float(verdict.strict), float(verdict.lenient), float(verdict.well_formed)


def test_the_harness_s_own_rules_are_its_own(
    lm_eval: Any,
    written: Callable[..., Path],
    gsm8k: tuple[Recipe, tuple[Problem, ...]],
    tmp_path: Path,
) -> None:
    """Against its own task gsm8k, run by itself on the same documents and texts."""
    recipe, problems = gsm8k
    kinds = len(answers(problems[0]))
    texts = [answers(problem)[number % kinds] for number, problem in enumerate(problems)]
    folder, model = written(recipe), scripted(texts.__getitem__)
    ours = run(lm_eval, model, task_name(recipe), folder)
    rows = [{"question": p.columns["problem"], "answer": p.columns["solution"]} for p in problems]
    theirs = run(lm_eval, model, write_own_task(rows, tmp_path / "own"), tmp_path / "own")
    for name, rule in (("strict-match", RULES[0]), ("flexible-extract", RULES[1])):
        expected = [s["exact_match"] for s in theirs if s["filter"] == name]
        assert [sample[rule] for sample in ours] == expected
        assert {0.0, 1.0} == set(expected)


def write_own_task(rows: list[dict[str, str]], folder: Path) -> str:
    """The harness's task gsm8k as it is installed, on rows of ours and without examples."""
    file = resources.files("lm_eval") / "tasks" / "gsm8k" / "gsm8k.yaml"
    task: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    for key in ("dataset_path", "dataset_name", "training_split", "fewshot_split", "tag"):
        task.pop(key, None)
    folder.mkdir()
    text = yaml.safe_dump(task | {"task": "own_gsm8k", "num_fewshot": 0})
    (folder / "own.yaml").write_text(f"{text}custom_dataset: !function rows.load\n", "utf-8")
    (folder / "rows.py").write_text(
        "from datasets import Dataset\n\n\ndef load(**options):\n"
        f"    return {{'test': Dataset.from_list({rows!r})}}\n",
        "utf-8",
    )
    return "own_gsm8k"


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        # What docs/evaluation.md says of where the rules differ; the gold is 72.
        ("so </think> <answer> 72 </answer>", (1, 1, 1), (0, 1)),
        ("so </think> 72\n#### 72", (0, 1, 0), (1, 1)),
        ("so </think> <answer> 72.0 </answer>", (1, 1, 1), (0, 0)),
        ("so </think> <answer> 72 </answer> in 3 steps", (0, 1, 0), (0, 0)),
        ("so </think> it is 72", (0, 0, 0), (0, 1)),
        ("so </think> <answer> not 72 </answer>", (0, 0, 1), (0, 1)),
        ("so </think> <answer> 1 + 72 </answer>", (0, 0, 1), (0, 1)),
        ("so </think> <answer> $72 </answer>", (1, 1, 1), (0, 1)),
    ],
)
def test_where_the_rules_differ(
    lm_eval: Any, text: str, ours: tuple[int, int, int], theirs: tuple[int, int]
) -> None:
    from aha.evaluate.lm_harness import score_gsm8k

    columns = {"problem": "?", "answer": "72", "solution": "<<6*12=72>>72\n#### 72"}
    prompt = {"prompt": "Assistant: <think>", "layout": "think"}
    document = {**prompt, "columns": json.dumps(columns)}
    assert tuple(score(document, text, ())[name] for name in VERDICTS) == ours
    assert tuple(score_gsm8k(document, text, ())[name] for name in RULES) == theirs
