"""The sections of a recipe: every key with its type, its range and its default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]
AdvantageEstimator = Literal["grpo", "rloo", "reinforce++", "maxrl", "gdpo"]
KlEstimator = Literal["k1", "k2", "k3"]
ScaleRewards = Literal["group", "batch", "none"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not converted between types."""

    # ser_json_inf_nan: an infinite option of a user's reward stays infinite in the written recipe.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class ModelSection(Section):
    """The policy: `aha-tiny`, a folder, or a hub name."""

    name: str = "aha-tiny"
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: float32; bfloat16 rounds away most updates at rates like 1e-6",
    )
    autocast: Literal["auto", "none", "bfloat16"] = Field(
        "auto", description="type of large products in training; auto: bfloat16 on a GPU"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: cuda where there is one, else cpu; mps: an Apple GPU, not tried"
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    trust_remote_code: bool = False
    quantization: Literal["none", "nf4", "int8"] = Field(
        "none", description="of the frozen base under `lora`, by bitsandbytes"
    )


class LoraSection(Section):
    """Low-rank adapters on a frozen base (Hu et al. 2021, arXiv:2106.09685).

    There is no dropout: the sampler would draw from another distribution than the one that is
    trained.
    """

    r: int = Field(16, ge=1, description="rank")
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False, description="scale is alpha / r")
    use_rslora: bool = Field(False, description="scale is alpha / sqrt(r) (arXiv:2312.03732)")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="names of linear layers; all-linear: all but the head"
    )


class TaskSection(Section):
    """The problems: generated, or read from `source`.

    The keys from `sizes` on bound generated problems, inclusively. Countdown takes all but
    `steps`; word-problems takes `steps`, `number_min`, `number_max` and `max_value`; modular takes
    the last three, which bound its modulus and its values. `max_value` bounds every intermediate
    result, so that a model with one token per integer can write each step.
    """

    name: str = "countdown"
    source: str | None = Field(
        None, description="file or hub data set; none: generated, or the task's own set"
    )
    test_source: str | None = Field(
        None, description="set of the held-out problems; none: split off by content"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="our column: the set's column"
    )
    problems: tuple[str, ...] = Field(
        (), description="these instead, as `aha play --problem` takes them, trained and tested on"
    )
    num_train: int | None = Field(None, ge=1, description="none: all, or 10,000 generated")
    easy_steps: int = Field(
        0, ge=0, description="first steps, which draw only the easiest problems (by difficulty)"
    )
    data_seed: int = Field(0, description="seed of the generator; never moves test problems")
    dataset: str | None = Field(None, description="reasoning-gym's set; other tasks refuse it")
    config: dict[str, Any] = Field(
        default_factory=dict, description="fields of that set's config; `aha tasks --gym`"
    )
    sizes: tuple[int, ...] = Field((3, 4), min_length=1, description="how many numbers")
    number_min: int = Field(1, ge=0)
    number_max: int = Field(99, ge=1)
    target_min: int = Field(1, ge=0)
    target_max: int = Field(99, ge=0)
    max_value: int = Field(9_999, ge=1, description="bound of every intermediate result")
    steps: tuple[Literal[1, 2, 3], ...] = Field(
        (1, 2, 3), min_length=1, description="word-problems: how many operations, each as often"
    )

    @property
    def tested(self) -> str:
        """The kind of problems that evaluations ask, in a word."""
        return "training" if self.problems else "held-out"

    @model_validator(mode="after")
    def _check_ranges(self) -> TaskSection:
        if self.problems and (self.source or self.test_source):
            raise ValueError("problems are given, so source and test_source must be none")
        if any(size < 2 or size > 8 for size in self.sizes):
            raise ValueError(f"sizes is {list(self.sizes)}; each must be 2 to 8")
        for low, high in (("number_min", "number_max"), ("target_min", "target_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} is {getattr(self, low)}; it must be at most {high}, "
                    f"{getattr(self, high)}"
                )
        return self


class ExampleSection(Section):
    """A worked example that stands before the problem."""

    problem: str
    completion: str


class PromptSection(Section):
    """The layout of prompts."""

    style: Literal[
        "r1", "think-answer", "reasoning-answer", "boxed", "hash", "plain", "compact"
    ] = "r1"
    format: Literal["text", "chat"] = Field("text", description="plain text, or chat template")
    prefill: str = Field("<think>", description="the beginning that every completion is given")
    system: str | None = Field(None, description="instead of the style's own instruction")
    examples: tuple[ExampleSection, ...] = ()


class RewardSection(Section):
    """One reward with its weight in the sum and its own options."""

    name: str
    weight: float = Field(1.0, allow_inf_nan=False)
    options: dict[str, Any] = Field(default_factory=dict)
    on_error: Literal["stop", "none"] = Field(
        "stop", description="when the reward fails: stop the run, or no score for its rows"
    )
    timeout_s: float = Field(
        600.0, gt=0, allow_inf_nan=False, description="seconds for a step's completions"
    )


class GenerationSection(Section):
    """Rollouts."""

    num_generations: int = Field(8, ge=2, description="completions per prompt")
    max_completion_length: int = Field(512, ge=1, description="tokens")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    min_p: float = Field(0.0, ge=0, le=1)
    stop: tuple[str, ...] = Field((), description="texts after which a completion ends")
    max_rows: int = Field(512, ge=1, description="completions in the KV cache at a time")

    @model_validator(mode="after")
    def _check_stop(self) -> GenerationSection:
        if "" in self.stop:
            raise ValueError("stop holds an empty text; each must have a character at least")
        return self


class GrpoSection(Section):
    """The objective."""

    prompts_per_step: int = Field(16, ge=1)
    num_iterations: int = Field(1, ge=1, description="updates per batch of rollouts")
    beta: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight of the KL term")
    use_bias_correction_kl: bool = Field(True, description="KL times the importance ratio")
    kl_estimator: KlEstimator = "k3"
    reference_reset_steps: int = Field(
        0,
        ge=0,
        description="steps after which the KL's reference becomes the policy; 0: never",
    )
    epsilon: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="how far the policy's ratio may fall before it is clipped; without effect when "
        "num_iterations is 1, where the ratio is 1",
    )
    epsilon_high: float | None = Field(
        None,
        ge=0,
        description="how far it may rise; without effect when num_iterations is 1; none: epsilon. "
        "With loss_type cispo the largest ratio, such as 5",
    )
    loss_type: LossType = "dapo"
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="sequence: one ratio for all tokens of a completion (GSPO)"
    )
    advantage_estimator: AdvantageEstimator = "grpo"
    scale_rewards: ScaleRewards = Field(
        "group", description="the deviation by which advantage_estimator grpo divides"
    )
    mask_truncated_completions: bool = False
    entropy_coef: float = Field(0.0, ge=0, le=1, description="weight of the mean entropy's bonus")
    use_adaptive_entropy: bool = Field(
        False,
        description="change entropy_coef by entropy_coef_delta after each step, up if the entropy "
        "is at most entropy_target; above it the bonus is off (Skywork-OR1, arXiv:2505.22312)",
    )
    entropy_target: float = Field(0.2, ge=0, description="nats a token")
    entropy_coef_delta: float = Field(0.005, ge=0)
    entropy_coef_min: float = Field(0.0, ge=0)
    entropy_coef_max: float = Field(1.0, ge=0)
    dynamic_sampling: bool = Field(
        False, description="draw prompts until prompts_per_step groups have signal (DAPO)"
    )
    max_sampling_rounds: int = Field(
        4, ge=1, le=15, description="with dynamic_sampling: rounds of prompts_per_step at most"
    )

    @model_validator(mode="after")
    def _check_together(self) -> GrpoSection:
        cispo, sequence = self.loss_type == "cispo", self.importance_sampling_level == "sequence"
        other = self.advantage_estimator != "grpo" and self.scale_rewards != "group"
        if cispo and (self.epsilon_high or 0) < 1:
            fault = f"epsilon_high is {self.epsilon_high}; with loss_type 'cispo' it is 1 or more"
        elif other:
            fault = (
                f"scale_rewards is {self.scale_rewards!r}; only advantage_estimator 'grpo' has it"
            )
        elif self.reference_reset_steps and not self.beta:
            fault = f"reference_reset_steps is {self.reference_reset_steps}; without beta it is 0"
        elif sequence and cispo:
            fault = "importance_sampling_level is 'sequence'; with loss_type 'cispo' it is 'token'"
        elif sequence and self.beta and self.use_bias_correction_kl:
            fault = "use_bias_correction_kl is true; with ratios of sequences and a KL it is false"
        else:
            return self
        raise ValueError(fault)


class OptimizerSection(Section):
    """AdamW and its schedule."""

    learning_rate: float = Field(1e-6, gt=0, allow_inf_nan=False)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="last rate over learning_rate")
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    state: Literal["device", "cpu", "8bit"] = Field(
        "device",
        description="AdamW's moments; cpu: in the CPU's memory, updated there; 8bit: a quarter of "
        "the size, by bitsandbytes",
    )


class TrainSection(Section):
    """The loop."""

    max_steps: int = Field(200, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)
    save_steps: int = Field(50, ge=1)
    save_total_limit: int = Field(2, ge=1)
    save_in_background: bool = Field(
        False, description="train on while a checkpoint is written, for memory of its size"
    )
    max_hours: float | None = Field(
        None, gt=0, description="save and stop before this many hours have passed"
    )
    max_skipped_steps: int = Field(
        5, ge=1, description="stop after this many steps in a row without a finite gradient"
    )
    gradient_checkpointing: bool = False
    tokens_per_microbatch: int | None = Field(
        None, ge=1, description="tokens at a time; none: from the free memory"
    )


class EvaluationSection(Section):
    """Held-out accuracy before, after and, where asked, during training."""

    n: int = Field(500, ge=0, description="0: no evaluation")
    samples: int = Field(1, ge=1, description="completions a problem; several: pass@k, maj@k")
    at_least: float | None = Field(
        None, ge=0, le=1, description="accuracy after training below which the run fails"
    )
    every: int = Field(0, ge=0, description="also after every so many steps; 0: never")
    temperature: float = Field(1.0, ge=0, description="0: greedy")


class LoggingSection(Section):
    """The files and messages of a run."""

    logging_steps: int = Field(1, ge=1, description="steps between the console's blocks")
    console: Literal["auto", "live", "text"] = Field(
        "auto", description="auto: a live view in a terminal, text elsewhere"
    )
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    project: str = Field("aha", min_length=1, description="W&B's or Trackio's project")
    samples_steps: int = Field(10, ge=1, description="steps between samples files")
    samples_groups: int = Field(2, ge=1, description="groups in a samples file")
    samples_successful_only: bool = Field(False, description="only groups with a right completion")
    samples_limit: int | None = Field(None, ge=1, description="groups kept in all; none: no limit")
    samples_print: bool = Field(False, description="samples on the console too")
    alerts_window: int = Field(
        40, ge=0, description="steps in which a trend is looked for; 0: no trend alerts"
    )


class TrlSection(Section):
    """Keys of `engine: trl` alone: who samples, and how weights are sharded. TRL's names."""

    vllm: Literal["off", "colocate", "server"] = Field(
        "off", description="sample with vLLM on the training GPUs, on a server's, or not"
    )
    vllm_server_host: str = Field("127.0.0.1", min_length=1)
    vllm_server_port: int = Field(8000, ge=1, le=65535)
    vllm_gpu_memory_utilization: float = Field(
        0.3, gt=0, lt=1, description="vLLM's share of a training GPU's memory"
    )
    vllm_tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share one vLLM")
    vllm_enable_sleep_mode: bool = Field(
        False, description="vLLM gives its memory back while the policy is updated"
    )
    use_kernels: bool = Field(
        False, description="kernels of the Hugging Face hub in the layers, Liger's among them"
    )
    use_liger_kernel: bool = Field(False, description="TRL deprecates it; use_kernels follows it")
    deepspeed: str | None = Field(
        None, description="a DeepSpeed configuration; none: accelerate's own, if it has one"
    )

    @model_validator(mode="after")
    def _check_vllm(self) -> TrlSection:
        for mode, keys in VLLM_KEYS.items():
            for key in keys if self.vllm != mode else ():
                if getattr(self, key) != TrlSection.model_fields[key].default:
                    raise ValueError(f"{key} goes with vllm: {mode}; vllm is {self.vllm!r}")
        return self


# The keys of the `trl` section that only one way of sampling uses.
VLLM_KEYS = {
    "server": ("vllm_server_host", "vllm_server_port"),
    "colocate": (
        "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_enable_sleep_mode",
    ),
}  # fmt: skip
