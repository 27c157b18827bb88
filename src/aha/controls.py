"""The sections of a recipe that act on a run as it goes: length control and the curriculum."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aha.sections import Section


class LengthStage(Section):
    """A limit of completions that begins at a step, or when few completions are cut off."""

    limit: int = Field(ge=1, description="tokens")
    from_step: int | None = Field(None, ge=1)
    clipped_below: float | None = Field(
        None, gt=0, le=1, description="share that is cut off in the step before"
    )

    @model_validator(mode="after")
    def _check_one(self) -> LengthStage:
        if (self.from_step is None) == (self.clipped_below is None):
            raise ValueError("exactly one of from_step and clipped_below must be set")
        return self


class LengthSection(Section):
    """Length control, off by default."""

    schedule: tuple[LengthStage, ...] = Field((), description="limits, one after another")
    limit: Literal["fixed", "adaptive"] = Field(
        "fixed", description="adaptive: follows the lengths of right completions"
    )
    percentile: float = Field(0.95, gt=0, le=1, description="of right completions' lengths")
    margin: float = Field(1.25, ge=1, description="adaptive limit over that length")
    by_difficulty: bool = Field(
        False, description="adaptive: a limit for each difficulty of a problem"
    )
    rate: float = Field(0.2, gt=0, le=1, description="share of the way that it moves in a step")
    least: int = Field(16, ge=1, description="tokens of the adaptive limit")
    penalty: Literal["none", "fixed", "kimi", "alp", "held", "wish"] = Field(
        "none",
        description="a reward for short completions; held: its weight holds target; wish: for "
        "completions of the length that the prompt asks for",
    )
    penalty_weight: float = Field(0.1, ge=0, description="with held: the largest weight")
    target: int | None = Field(None, ge=1, description="mean tokens that penalty held aims at")
    gain: float = Field(0.02, gt=0, description="held: change of the weight a step at twice target")
    wish: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="tokens that a prompt asks for, drawn between these two (LCPO)"
    )
    keep: int | None = Field(None, ge=2, description="completions a group to train on (GFPO)")
    keep_by: Literal["shortest", "efficient"] = "shortest"

    @model_validator(mode="after")
    def _check_together(self) -> LengthSection:
        if self.schedule and self.limit == "adaptive":
            raise ValueError("schedule is set and limit is 'adaptive'; allowed is one of them")
        if (self.penalty == "held") != (self.target is not None):
            found = f"penalty is {self.penalty!r} and target is {self.target}"
            raise ValueError(f"{found}; target goes with penalty 'held', which needs it")
        if (self.penalty == "wish") != (self.wish is not None):
            found = f"penalty is {self.penalty!r} and wish is {self.wish}"
            raise ValueError(f"{found}; wish goes with penalty 'wish', which needs it")
        if self.wish is not None and self.wish[0] > self.wish[1]:
            raise ValueError(f"wish is {list(self.wish)}; the first may not be above the second")
        if self.by_difficulty and self.limit != "adaptive":
            raise ValueError("by_difficulty is true and limit is 'fixed'; it goes with 'adaptive'")
        return self

    @property
    def on(self) -> bool:
        """True if anything is controlled."""
        controls = self.limit != "fixed" or self.penalty != "none" or self.keep is not None
        return bool(self.schedule) or controls


class CurriculumSection(Section):
    """The problems that a step draws; by default each once an epoch."""

    draw: Literal["epochs", "pass_rate"] = Field(
        "epochs", description="pass_rate: half solved classes of difficulty come more often"
    )
    memory: float = Field(0.9, ge=0, lt=1, description="of a class's running pass rate, a step")
    least: float = Field(
        0.1, gt=0, le=1, description="weight of a class that all or none solve; half solved: 1"
    )
    rest_steps: int = Field(
        0, ge=0, description="steps in which a problem that all or none solved does not come back"
    )

    @property
    def on(self) -> bool:
        """True if draws depend on what was solved."""
        return self.draw != "epochs" or self.rest_steps > 0
