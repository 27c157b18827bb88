"""TRL's GRPOTrainer on aha's problems, prompts and rewards.

Overridden methods have their names in TRL 1.16 and transformers 5.23. Distribution, sampling,
reference, advantages, loss and optimizer are TRL's. Left out: TRL's usage statistics, which it
would send to the hub.

A checkpoint is one folder a step, as the native engine's. transformers writes it, and DeepSpeed or
FSDP their shards, into a staging folder. When all processes are through, the main one adds the step
and the record's length, seals the folder and gives it its name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback

from aha.grpo.update import UpdateStats
from aha.model.load import product_dtype, switch_off_dropout
from aha.observe.record import FinishedStep
from aha.runs import RunDirectory
from aha.tasks.prompts import ask
from aha.train.checkpoint import publish_checkpoint, require_space, writing
from aha.train.loop import score_groups
from aha.train.schedule import learning_rate_at
from aha.train.state import TrainingData
from aha.trl.config import sharding
from aha.trl.materials import Endings, Policy, StepSampler, groups_of, vllm_in
from aha.trl.ranks import Ranks
from aha.types import Completion, Group, Problem, Prompt, RunFailure
from trl import GRPOTrainer


class MicrobatchSums(NamedTuple):
    """One process's part of a microbatch. Rows are trained on for an advantage or a KL term."""

    tokens: int
    trained_rows: int
    trained_tokens: int
    entropy: float  # the sum over trained tokens


@dataclass
class StepSums:
    """One process's figures of the step in hand; `groups` are the whole step's, on the main one.

    `loss` is the sum over the update in hand, `last_loss` the objective of the last update.
    """

    started: float = field(default_factory=time.perf_counter)
    rollout_s: float = 0.0
    reward_s: float = 0.0
    logprobs: Sequence[Sequence[float | None]] | None = None
    has_signal_B: Tensor = field(default_factory=lambda: torch.empty(0))
    groups: list[Group] = field(default_factory=list)
    tokens_per_microbatch: int = 0
    loss: float = 0.0
    last_loss: float = math.nan
    grad_norm: float = math.nan
    learning_rate: float = math.nan
    skipped: bool = False
    microbatches: list[MicrobatchSums] = field(default_factory=list)
    nonfinite_rows: set[int] = field(default_factory=set)


class RecipeTrainer(GRPOTrainer):  # type: ignore[misc]
    """A recipe's steps; one of them is `num_iterations` optimizer steps of TRL's."""

    lr_scheduler: Any

    def __init__(
        self, data: TrainingData, arguments: Any, policy: Policy, ranks: Ranks, run: RunDirectory
    ) -> None:
        recipe = data.recipe
        self.recipe, self.ranks, self._data, self._directory = recipe, ranks, data, run
        self._problems = {problem.key: problem for problem in data.problems}
        self._sums = StepSums()
        self._computed_BT = (torch.empty(0), torch.empty(0))
        with vllm_in(product_dtype(recipe)):
            super().__init__(
                model=policy[0],
                reward_funcs=[item.reward for item in data.rewards],
                args=arguments,
                train_dataset=Dataset.from_dict({"prompt": list(self._problems)}),
                processing_class=data.tokenizer,
                peft_config=policy[1],
            )
        # TRL's `disable_dropout` knows the modules only, and loads a sharded policy itself.
        switch_off_dropout(self.policy)
        self.remove_callback(PrinterCallback)
        self._endings = Endings(data.tokenizer, self.eos_token_ids, recipe.generation.stop)
        if recipe.generation.stop:
            self.policy.generate = self._endings.ending(self.policy.generate)
        if self.is_fsdp_enabled:
            # Checkpoints are for transformers; shards could only be read by this run.
            plugin = self.accelerator.state.fsdp_plugin
            # The launcher's file may name shards; that would stay beside the new type.
            plugin.state_dict_config = plugin.optim_state_dict_config = None
            plugin.set_state_dict_type("FULL_STATE_DICT")
        if recipe.lora is not None:
            self.model.peft_config["default"].base_model_name_or_path = recipe.model.name
            for parameter in () if self._dist.is_zero3 else self.model.parameters():
                if parameter.requires_grad:
                    # bfloat16 would round away most updates.
                    parameter.data = parameter.data.float()

    @property
    def is_sharded(self) -> bool:
        """True if no process holds the whole policy."""
        return bool(self.is_fsdp_enabled or self._dist.is_zero3)

    @property
    def policy(self) -> Any:
        """The transformers model inside its wrappers; adapters, if any, are in its layers."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if self.recipe.lora is not None else model

    def _send_telemetry(self) -> None:
        """Nothing is sent."""

    # Prompts.

    def _get_train_sampler(self, dataset: Any = None) -> StepSampler:
        repeats = self.recipe.grpo.num_iterations * self.args.steps_per_generation
        return StepSampler(self._data, repeats)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        asked = {key: self._prompt_of(self._problems[key]) for key in dict.fromkeys(prompts)}
        return [list(asked[key].token_ids) for key in prompts], None, {}

    def _prompt_of(self, problem: Problem) -> Prompt:
        return ask([problem], self.recipe, self._data.tokenizer)[0]

    # Completions.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._sums = StepSums()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        step, advantages_B = self._sums, output["advantages"]
        first = self.ranks.index * len(advantages_B)
        place_B = torch.arange(first, first + len(advantages_B), device=advantages_B.device)
        # Rewards that differ by rounding are equal, as natively.
        output["advantages"] = advantages_B.masked_fill(~step.has_signal_B[place_B], 0.0)
        output["row"] = place_B
        everyone = iter(self.accelerator.gather(output["advantages"]).tolist())
        step.groups = [
            replace(group, advantages=tuple(next(everyone) for _ in group.completions))
            for group in step.groups
        ]
        width = output["prompt_ids"].size(1) + output["completion_ids"].size(1)
        step.tokens_per_microbatch = self.args.per_device_train_batch_size * width
        return output

    def _generate(self, prompts: list[str]) -> Any:
        started = time.perf_counter()
        result = super()._generate(prompts)
        self._sums.logprobs = result[4]
        self._sums.rollout_s = time.perf_counter() - started
        return result

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, fields: Any, num_generations: int, *rest: Any
    ) -> Any:
        most = len(prompt_ids) if self.use_vllm else self.recipe.generation.max_rows
        rows: list[list[int]] = []
        logprobs: list[Any] = []
        for first in range(0, len(prompt_ids), most):
            part = prompt_ids[first : first + most]
            new, known = super()._generate_single_turn(part, images, fields, num_generations, *rest)
            rows += self._endings.cut(new)
            logprobs += known or []
        if not logprobs:
            return rows, None
        return rows, [known[: len(row)] for known, row in zip(logprobs, rows, strict=True)]

    # Rewards.

    def _calculate_rewards(
        self, inputs: Any, prompts: list[str], completions: list[str], ids: list[list[int]]
    ) -> Tensor:
        started = time.perf_counter()
        known = self._sums.logprobs or [()] * len(ids)
        stopped = self._endings.stopped(ids)
        mine = []
        for key, text, tokens, drawn, ended in zip(
            prompts, completions, ids, known, stopped, strict=True
        ):
            logprobs = tuple(math.nan if value is None else value for value in drawn)
            completion = Completion(text, tuple(tokens), logprobs, "stop" if ended else "length")
            mine.append((key, completion))
        rows = [row for part in self.ranks.gather(mine) for row in part]

        def score_all() -> tuple[np.ndarray, list[bool]]:
            """Every row's rewards, NaN where one does not apply; every group's signal."""
            groups = groups_of(rows, self.num_generations, self._problems, self._prompt_of)
            self._sums.groups = groups = score_groups(self._data.rewards, groups)
            raw = [list(score.raw.values()) for group in groups for score in group.scores]
            return np.array(raw, dtype=np.float32), [group.has_signal for group in groups]

        raw_BR, has_signal = self.ranks.on_main(score_all)
        device = self.accelerator.device
        signal_P = torch.tensor(has_signal, device=device)
        self._sums.has_signal_B = signal_P.repeat_interleave(self.num_generations)
        self._sums.reward_s = time.perf_counter() - started
        return torch.tensor(raw_BR, device=device)

    # The update.

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            recipe, updates = self.recipe, self.recipe.grpo.num_iterations

            def factor(update: int) -> float:
                step, settings = update // updates + 1, recipe.optimizer
                rate = learning_rate_at(step, recipe.train.max_steps, settings)
                return rate / settings.learning_rate

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay is for every weight, as natively; transformers would spare some."""
        return [name for name, _ in model.named_parameters()]

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        loss: Tensor = super().training_step(*arguments, **options)
        self._sums.loss += loss.item()
        return loss

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **options: Any) -> Any:
        result = super()._get_per_token_logps_and_entropies(*arguments, **options)
        if torch.is_grad_enabled():
            self._computed_BT = (result[0].detach(), result[1].detach())
        return result

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        mask_BT = inputs["completion_mask"].bool()
        logprobs_BT, entropy_BT = self._computed_BT
        nonfinite_B = ~(logprobs_BT.isfinite() | ~mask_BT).all(dim=1)
        every = self.beta != 0 or self.entropy_coef != 0
        trained_B = mask_BT.any(dim=1) & ((inputs["advantages"] != 0) | every)
        trained_BT = mask_BT & trained_B[:, None]
        self._sums.nonfinite_rows.update(inputs["row"][nonfinite_B].tolist())
        self._sums.microbatches.append(
            MicrobatchSums(
                tokens=int(mask_BT.sum()),
                trained_rows=int(trained_B.sum()),
                trained_tokens=int(trained_BT.sum()),
                entropy=float(entropy_BT.masked_fill(~trained_BT, 0.0).sum()),
            )
        )
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip. As natively, no step if nothing is trained on, or loss or gradient not finite."""
        norm, step = super()._clip_grad_norm(model), self._sums
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        step.grad_norm = 0.0 if whole is None else float(whole)
        step.learning_rate = self.optimizer.param_groups[0]["lr"]
        trained = sum(part.trained_tokens for part in step.microbatches)
        losses, counts = zip(*self.ranks.gather((step.loss, trained)), strict=True)
        # Like the gradient, the objective is the mean over processes.
        step.last_loss, step.loss = sum(losses) / len(losses), 0.0
        if not (math.isfinite(step.grad_norm) and math.isfinite(step.last_loss)):
            if self.is_deepspeed_enabled:
                raise RunFailure(
                    "loss or gradient is not finite, and DeepSpeed has taken the step already; go "
                    "on from the last checkpoint with a lower optimizer.learning_rate."
                )
            step.skipped = True
        if step.skipped or not sum(counts):
            for parameter in model.parameters():
                parameter.grad = None
        return norm

    # The step's figures.

    def finish_step(self, number: int) -> FinishedStep:
        """The step that has just ended, from all processes' figures; groups on the main one.

        TRL logs means over microbatches, whose sizes depend on memory. Here every trained token
        counts the same, as natively. After several updates, the figures are the last one's.
        """
        step, last = self._sums, self.args.gradient_accumulation_steps
        step_s = time.perf_counter() - step.started
        told = self.ranks.gather((step.microbatches, sorted(step.nonfinite_rows)))
        # The last update's microbatches, each summed over the processes.
        sums_M4 = np.sum([microbatches for microbatches, _ in told], axis=0)[-last:]
        tokens_M, whole = sums_M4[:, 0], MicrobatchSums(*sums_M4.sum(axis=0))
        trained = whole.trained_tokens
        logged = dict(self._metrics["train"])
        self._metrics["train"].clear()

        def mean(name: str) -> float:
            """Over trained tokens, from TRL's means over each microbatch's tokens."""
            if not trained:
                return math.nan
            if not logged.get(name):
                return 0.0
            # The mean of a microbatch without tokens is not a number.
            sums_M = np.where(tokens_M > 0, logged[name][-last:] * tokens_M, 0.0)
            return float(sums_M.sum() / trained)

        gaps = logged.get("sampling/sampling_logp_difference/max", ())
        stats = UpdateStats(
            loss=step.last_loss,
            grad_norm=step.grad_norm,
            kl=mean("kl"),
            entropy=float(whole.entropy / trained) if trained else math.nan,
            clip_ratio=mean("clip_ratio/region_mean"),
            logprob_gap=gaps[-1] if gaps else math.nan,
            trained_rows=int(whole.trained_rows),
            tokens_per_microbatch=step.tokens_per_microbatch,
            skipped=step.skipped,
            nonfinite_rows=tuple(row for _, rows in told for row in rows),
        )
        times = {
            "time/rollout_s": step.rollout_s,
            "time/reward_s": step.reward_s,
            "time/train_s": step_s - step.rollout_s - step.reward_s,
            "time/step_s": step_s,
        }
        epoch = self._data.stream.epoch(number)
        coef = self.entropy_coef or None
        return FinishedStep(number, epoch, step.learning_rate, step.groups, stats, times, coef)

    # Checkpoints.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As transformers does, into a folder that is aha's checkpoint once it is whole.

        Errors: RunFailure for a disk that is too full or fails; earlier checkpoints stay whole.
        """
        update, folder = int(self.state.global_step), self._directory.checkpoints
        step = update // self.recipe.grpo.num_iterations
        staged = Path(self.args.output_dir) / f"checkpoint-{update}"

        def write() -> None:
            if self.args.should_save and not self.is_sharded:
                trained = [p for p in self.model.parameters() if p.requires_grad]
                # The trained weights, and AdamW's two moments of each.
                require_space(folder, 3 * sum(p.numel() * p.element_size() for p in trained))
            with writing(staged, folder, step):
                # Not GRPOTrainer's, which also writes a model card beside the checkpoints.
                super(GRPOTrainer, self)._save_checkpoint(model, trial)

        def publish() -> None:
            state = {
                "engine": "trl",
                "step": step,
                "record_bytes": self._directory.record_bytes(),
                "sharding": sharding(self.args),
            }
            publish_checkpoint(staged, folder, step, state, self.recipe.train.save_total_limit)

        self.ranks.together(write)
        self.ranks.on_main(publish)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.recipe.lora is None:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            # The base's vocabulary is its own: peft would ask the hub about it.
            self.accelerator.unwrap_model(self.model).save_pretrained(
                output_dir, state_dict=state_dict, save_embedding_layers=False
            )
            self._tokenizer.save_pretrained(output_dir)
        # A pickle of arguments that the recipe has in plain text.
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)
