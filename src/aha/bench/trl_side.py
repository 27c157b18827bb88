"""TRL's side: GRPOTrainer on the same model, prompts, rewards and settings.

Its micro-batch is the whole step where that fits: fewer passes are its fastest setting.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

from aha.bench.models import build, problems_of, recipe_of
from aha.bench.spec import Spec, StepTimes
from aha.tasks.ask import ask
from aha.train.loop import peak_memory_gb


def run(spec: Spec, wait: Callable[[], bool], report: Callable[[StepTimes], None]) -> None:
    """Train step by step: each begins when `wait` returns true, and is reported."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from aha.rewards.score import rewards_of

    recipe = recipe_of(spec)
    model, tokenizer = build(spec)
    rewards = [item.reward for item in rewards_of(recipe)]

    def alternate(completions: list[str], **_: Any) -> list[float]:
        return [float(index % 2) for index in range(len(completions))]

    clock = {"step": 0.0, "rollout": 0.0, "tokens": 0.0}

    class Gate(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not wait():
                raise SystemExit(0)
            clock.update(step=time.perf_counter(), rollout=0.0, tokens=0.0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step_s = time.perf_counter() - clock["step"]
            rollout_s = clock["rollout"]
            report(
                StepTimes(
                    step_s, rollout_s, step_s - rollout_s, int(clock["tokens"]), peak_memory_gb()
                )
            )

    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = GRPOTrainer(
            model=model,
            reward_funcs=[alternate] if spec.is_shape else rewards,
            args=_config(spec, folder, [r.weight for r in rewards_of(recipe)]),
            train_dataset=_dataset(spec, recipe, tokenizer),
            processing_class=tokenizer,
            callbacks=[Gate()],
        )
        generate = trainer._generate_single_turn

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = generate(*arguments, **options)
            clock["rollout"] += time.perf_counter() - started
            clock["tokens"] += sum(len(ids) for ids in result[0])
            return result

        trainer._generate_single_turn = timed
        trainer.train()


def _config(spec: Spec, folder: str, weights: list[float]) -> Any:
    from trl import GRPOConfig

    recipe = recipe_of(spec)
    rows = spec.prompts * spec.generations
    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=10**6,
        max_steps=10**6,
        learning_rate=0.0,
        lr_scheduler_type="constant",
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        num_generations=spec.generations,
        max_completion_length=spec.limit,
        temperature=recipe.generation.temperature,
        top_k=0,
        beta=0.0,
        loss_type=recipe.grpo.loss_type,
        epsilon=recipe.grpo.epsilon,
        epsilon_high=recipe.grpo.epsilon_high,
        reward_weights=None if spec.is_shape else weights,
        max_grad_norm=recipe.optimizer.max_grad_norm,
        gradient_checkpointing=spec.checkpointing,
        use_transformers_continuous_batching=spec.side == "trl-continuous",
        generation_kwargs={"min_new_tokens": spec.limit} if spec.is_shape else None,
        shuffle_dataset=False,
    )


def _dataset(spec: Spec, recipe: Any, tokenizer: Any) -> Any:
    from datasets import Dataset

    problems = problems_of(spec)
    prompts = ask(problems, recipe, tokenizer)
    return Dataset.from_list(
        [
            {"prompt": prompt.text, **problem.columns}
            for problem, prompt in zip(problems, prompts, strict=True)
        ]
    )
