"""TRL's side: GRPOTrainer on the same model, prompts, rewards and settings.

Its microbatch is the whole step where that fits: fewer passes are its fastest setting.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from aha.bench.workload import Spec, StepTimes, alternate, build, fill_optimizer
from aha.observe.record import peak_memory_gb
from aha.rewards.score import rewards_of
from aha.tasks.prompts import ask
from aha.visible import package_yaml
from trl import GRPOConfig, GRPOTrainer


def run(spec: Spec, wait: Callable[[], None], report: Callable[[StepTimes], None]) -> None:
    """Train step by step: each begins when `wait` returns, and is reported."""
    recipe, problems = spec.recipe(), spec.problems()
    model, tokenizer = build(spec)
    weighted = rewards_of(recipe)
    clock = _Clock(wait, report)
    prompts = ask(problems, recipe, tokenizer)
    rows = [
        {"prompt": prompt.text, **problem.columns}
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            **package_yaml("aha.bench", "trl.yaml"),
            output_dir=folder,
            per_device_train_batch_size=spec.prompts * spec.generations,
            num_generations=spec.generations,
            max_completion_length=spec.limit,
            temperature=recipe.generation.temperature,
            loss_type=recipe.grpo.loss_type,
            epsilon=recipe.grpo.epsilon,
            epsilon_high=recipe.grpo.epsilon_high,
            reward_weights=None if spec.is_shape else [item.weight for item in weighted],
            max_grad_norm=recipe.optimizer.max_grad_norm,
            gradient_checkpointing=spec.checkpointing,
            use_transformers_continuous_batching=spec.side == "trl-continuous",
            generation_kwargs={"min_new_tokens": spec.limit} if spec.is_shape else None,
        )
        trainer: Any = GRPOTrainer(
            model=model,
            reward_funcs=[alternate] if spec.is_shape else [item.reward for item in weighted],
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer._generate_single_turn = clock.timed(trainer._generate_single_turn)
        trainer.train()


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Holds every step until it is wanted, and measures it and its rollout."""

    def __init__(self, wait: Callable[[], None], report: Callable[[StepTimes], None]) -> None:
        self._wait, self._report = wait, report
        self._started, self._rollout_s, self._tokens = 0.0, 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        fill_optimizer(given["optimizer"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait()
        self._started, self._rollout_s, self._tokens = time.perf_counter(), 0.0, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step_s = time.perf_counter() - self._started
        train_s = step_s - self._rollout_s
        self._report(StepTimes(step_s, self._rollout_s, train_s, self._tokens, peak_memory_gb()))

    def timed(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """TRL's generation, measured; its first result is the completions' tokens."""

        def measured(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = generate(*arguments, **options)
            self._rollout_s += time.perf_counter() - started
            self._tokens += sum(len(ids) for ids in result[0])
            return result

        return measured
