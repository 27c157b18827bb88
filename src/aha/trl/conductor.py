"""What happens between two steps: the record, then whether to save and whether to go on."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from aha.evaluate.evaluation import RunEvaluator
from aha.observe.reporter import StepReporter
from aha.train.stop import StopRequest
from aha.trl.trainer import RecipeTrainer
from aha.types import Stopped


class Conductor(TrainerCallback):  # type: ignore[misc]
    """Ends each step as the native loop does, in all processes together.

    `stopped` says why the run ended before its last step, if it did.
    """

    def __init__(
        self,
        trainer: RecipeTrainer,
        evaluator: RunEvaluator,
        reporter: StepReporter,
        stop: StopRequest,
    ) -> None:
        self._trainer = trainer
        self._evaluator = evaluator
        self._reporter = reporter
        self._stop = stop
        self._slowest_s = 0.0
        self.stopped: Stopped | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        recipe = self._trainer.recipe
        number, rest = divmod(state.global_step, recipe.grpo.num_iterations)
        if rest:
            return control
        step = self._trainer.finish_step(number)
        evaluated = self._evaluator.after_step(number)
        self._trainer.ranks.on_main(lambda: self._reporter.report(step, evaluated))
        self._slowest_s = max(self._slowest_s, step.times["time/step_s"])
        last = number == recipe.train.max_steps
        # Twice the slowest step: the checkpoint must still be written.
        self.stopped = self._agree(0.0 if last else 2 * self._slowest_s)
        control.should_save = (
            last or self.stopped is not None or number % recipe.train.save_steps == 0
        )
        control.should_training_stop |= self.stopped is not None
        return control

    def _agree(self, next_step_s: float) -> Stopped | None:
        """Why to stop, when any process has a reason."""
        mine = None
        try:
            self._stop.check(next_step_s)
        except Stopped as stopped:
            mine = (str(stopped), stopped.code)
        reasons = [reason for reason in self._trainer.ranks.gather(mine) if reason is not None]
        return Stopped(*reasons[0]) if reasons else None
