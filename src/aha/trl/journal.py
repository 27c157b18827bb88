"""What the main process writes and says of a run: aha's records, observers, alerts, evaluations."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from aha.evaluate.evaluate import Evaluation
from aha.model.adapters import can_fold_in, folded_copy
from aha.model.llama import blocks_of
from aha.model.load import load_model
from aha.observe.alerts import Watch
from aha.observe.machine import Meter
from aha.observe.observer import Observer
from aha.observe.record import group_metrics
from aha.runs import RunDirectory
from aha.train.loop import evaluate_held_out, evaluation_sentence, step_record, tell
from aha.train.setup import build_engine
from aha.trl.materials import Materials, loading_whole
from aha.trl.ranks import Ranks
from aha.trl.trainer import RecipeTrainer, Step


class Journal:
    """Turns finished steps into records, and tells those who watch."""

    def __init__(
        self, materials: Materials, run: RunDirectory, observers: Sequence[Observer]
    ) -> None:
        self._materials = materials
        self._run = run
        self._observers = observers
        self._watch = Watch(materials.recipe.logging, run.metrics())
        self._meter = Meter()

    def write(self, number: int, step: Step, extra: dict[str, Any]) -> None:
        """The record of step `number`, its samples, and what it gives rise to."""
        started = time.perf_counter()
        metrics = group_metrics(step.groups)
        times = step.times | {"time/record_s": time.perf_counter() - started}
        epoch = self._materials.stream.epoch(number)
        record = step_record(number, epoch, step.learning_rate, metrics, step.stats, times)
        record |= self._meter.read() | extra
        self._run.append_metrics(record)
        for observer in self._observers:
            observer.on_step(record, step.groups)
        alerts = self._watch.check(record)
        self._run.append_alerts(map(asdict, alerts))
        for alert in alerts:
            tell(self._observers, alert.message)


class Evaluator:
    """Held-out accuracy by the native engine on the main process; the others wait."""

    def __init__(
        self,
        materials: Materials,
        trainer: RecipeTrainer,
        run: RunDirectory,
        ranks: Ranks,
        observers: Sequence[Observer],
    ) -> None:
        self._materials = materials
        self._trainer = trainer
        self._run = run
        self._ranks = ranks
        self._observers = observers

    def before(self) -> None:
        """Once a run, however often it is resumed."""
        if self._ranks.on_main(lambda: "before" not in self._run.evaluation()):
            self._whole("before")

    def after(self) -> None:
        self._whole("after")

    def during(self, number: int) -> dict[str, Any]:
        """The step's `eval/...` figures on the main process, where they are due."""
        recipe = self._materials.recipe
        every, last = recipe.evaluation.every, number == recipe.train.max_steps
        if not every or number % every or last or not self._materials.held_out:
            return {}
        started, figures = time.perf_counter(), dict[str, Any]()

        def keep(evaluation: Evaluation) -> None:
            self._run.write_lines(f"evals/step-{number:06d}.jsonl", evaluation.records)
            tell(self._observers, f"after step {number}: {evaluation_sentence(evaluation)}")
            figures.update(evaluation.scalars())
            figures["time/eval_s"] = time.perf_counter() - started

        self._evaluate(keep)
        return figures

    def _whole(self, when: str) -> None:
        def keep(evaluation: Evaluation) -> None:
            self._run.write_lines(f"eval-{when}.jsonl", evaluation.records)
            self._run.write_json("eval.json", {**self._run.evaluation(), when: evaluation.summary})
            tell(self._observers, f"{when} training: {evaluation_sentence(evaluation)}")

        if self._materials.held_out:
            self._evaluate(keep, untrained=when == "before")

    def _evaluate(self, keep: Callable[[Evaluation], None], untrained: bool = False) -> None:
        """`keep` the policy's answers, on the main process; all help where it is sharded."""
        if self._trainer.is_sharded:
            self._sharded(keep, untrained)
        else:
            self._ranks.on_main(lambda: keep(self._here()))

    def _sharded(self, keep: Callable[[Evaluation], None], untrained: bool) -> None:
        """No process holds the whole policy: it is written, and read by the main one."""
        folder = self._run.checkpoints / ".trl" / "weights"
        if not untrained:
            self._ranks.together(lambda: self._trainer.save_model(str(folder)))
        source = None if untrained else str(folder)
        self._ranks.on_main(lambda: keep(self._of(source)))
        if self._ranks.is_main:
            shutil.rmtree(folder, ignore_errors=True)

    def _of(self, source: str | None) -> Evaluation:
        """The recipe's model, or what was written, loaded for this and dropped after it."""
        with loading_whole(self._trainer.args):
            model = load_model(self._materials.recipe.model, source)
        evaluation = self._answers(model)
        if torch.cuda.is_available():
            del model
            torch.cuda.empty_cache()
        return evaluation

    def _here(self) -> Evaluation:
        model = self._trainer.policy
        with own_forward(model):
            adapted = self._materials.recipe.lora is not None
            if adapted and model.device.type == "cpu" and can_fold_in(model):
                model = folded_copy(model)
            return self._answers(model)

    def _answers(self, model: Any) -> Evaluation:
        recipe, tokenizer = self._materials.recipe, self._materials.tokenizer
        engine = build_engine(recipe, model, tokenizer, blocks_of(model))
        return evaluate_held_out(recipe, engine, tokenizer, self._materials.held_out)


@contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """The model's class's forward while inside: TRL and accelerate put theirs on the instance."""
    theirs = {
        name: vars(model).pop(name) for name in ("forward", "generate") if name in vars(model)
    }
    try:
        yield
    finally:
        vars(model).update(theirs)
