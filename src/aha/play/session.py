"""A game: a model and the one it began from write on the same problem, and are judged.

Both draw from the whole distribution with the same random numbers, as `aha eval` does, so the same
seed gives the same texts. They write in turns, a step or a burst each, so each one's speed is that
of its own steps. Left out: conversations. Every problem stands alone, as in training.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property

from aha.play.problems import notes, typed_problem, written
from aha.play.scene import Lane, Row, Scene
from aha.recipe import Recipe
from aha.rollout.base import SamplingSettings
from aha.rollout.partial import Partial, unfinished_text
from aha.runs import RunDirectory, find_runs
from aha.tasks import check_completion, load_problems, task_of
from aha.tasks.prompts import ask
from aha.tiny import TINY_NAME
from aha.train.checkpoint import latest_checkpoint
from aha.trained import Loaded, Subject, find_subject, load, own_recipe, recipe_for
from aha.types import Problem, Prompt, UserError
from aha.visible import quoted

# Held-out problems to choose from: those that evaluation asks first.
_HELD_OUT = 500
MAX_SAMPLES = 64
_COLDEST, _HOTTEST = 0.01, 10.0
_WARM_UP = 4  # tokens
ALONE = "none"


@dataclass(frozen=True)
class Request:
    """What `aha play` was asked; None means as the recipe says."""

    target: str | None = None
    against: str | None = None
    recipe: str | None = None
    overrides: Sequence[str] = ()
    max_tokens: int | None = None


@dataclass(frozen=True)
class Draw:
    """How completions are drawn; `temperature` 0 is greedy, and then all samples are the same.

    Errors: UserError naming what is out of range.
    """

    samples: int = 1
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise UserError(f"samples is {self.samples}; allowed are 1 to {MAX_SAMPLES}.")
        # Lower ones, and what is no number, make infinities of the model's scores.
        if self.temperature != 0 and not _COLDEST <= self.temperature <= _HOTTEST:
            raise UserError(
                f"temperature is {self.temperature:g}; allowed are 0 (greedy) and {_COLDEST:g} to "
                f"{_HOTTEST:g}."
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must be 0 to 2**63 - 1.")


@dataclass(frozen=True)
class Side:
    """A model by its name for people, how it is asked, and what writes."""

    name: str
    recipe: Recipe
    loaded: Loaded


def open_session(request: Request) -> Session:
    """Load what is to be played. Errors: UserError naming what is wrong with the request."""
    first, second = _subjects(request)
    recipe = recipe_for(first, request.recipe, request.overrides)
    sides = [Side(first.name, recipe, load(recipe))]
    if second is not None:
        other = _recipe_of_other(second, recipe, request).model_copy(update={"task": recipe.task})
        # The one it began from stands first: on the left.
        sides.insert(0, Side(second.name, other, _loaded_against(other, request)))
    for side in sides:
        _warm_up(side)
    limit = request.max_tokens or recipe.generation.max_completion_length
    return Session(tuple(sides), recipe, limit)


def _subjects(request: Request) -> tuple[Subject, Subject | None]:
    """The model to play and the one to play it against, if any."""
    target = request.target or _latest_of_tiny() or TINY_NAME
    first = find_subject(target)
    against = request.against or _origin(first)
    if against is None or against in (ALONE, target):
        return first, None
    return first, find_subject(against)


def _latest_of_tiny() -> str | None:
    """The last begun run under runs/ that the embedded model can be played against."""
    for run in find_runs():
        if latest_checkpoint(run.checkpoints) is not None and _began_from(run) == TINY_NAME:
            return str(run.path)
    return None


def _origin(subject: Subject) -> str | None:
    return None if subject.run is None else _began_from(subject.run)


def _began_from(run: RunDirectory) -> str:
    return run.recipe().model.name


def _recipe_of_other(second: Subject, first_recipe: Recipe, request: Request) -> Recipe:
    """A model of which nothing says how to ask it is asked as the one it is played against."""
    if own_recipe(second) is not None or request.recipe is not None:
        return recipe_for(second, request.recipe, request.overrides)
    model = first_recipe.model.model_copy(update={"name": second.source})
    return first_recipe.model_copy(update={"model": model})


def _loaded_against(recipe: Recipe, request: Request) -> Loaded:
    try:
        return load(recipe)
    except UserError as error:
        if request.against is not None:
            raise
        raise UserError(f"{error} Play the model alone with --against {ALONE}.") from None


def _warm_up(side: Side) -> None:
    """What only a first call does, so that it does not count as slowness of the first game."""
    prompt = Prompt("", "", tuple(side.loaded.tokenizer.encode("1")))
    side.loaded.engine.generate([prompt], 1, SamplingSettings(_WARM_UP, ignore_end=True), seed=0)


class Session:
    """The models of a game, loaded once for many problems.

    `recipe` says what is asked and `limit` how many tokens a completion has at most.
    """

    def __init__(
        self,
        sides: tuple[Side, ...],
        recipe: Recipe,
        limit: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.sides = sides
        self.recipe = recipe
        self.limit = limit
        self._clock = clock
        self._known: dict[str, Problem] = {}

    @cached_property
    def held_out(self) -> tuple[Problem, ...]:
        """Problems that were never trained on. Errors: UserError as `load_problems`."""
        problems = load_problems(self.recipe.task, "test", _HELD_OUT).problems
        self._known = {written(problem): problem for problem in problems}
        return problems

    def random_problem(self, seed: int) -> Problem:
        """One of the held-out problems; the same for the same seed."""
        return random.Random(seed).choice(self.held_out)

    def typed(self, text: str) -> Problem:
        """A problem that a person wrote; of one that was chosen the answer is known.

        Errors: UserError as `typed_problem`.
        """
        return self._known.get(text.strip()) or typed_problem(text, self.recipe.task)

    def play(self, problem: Problem, draw: Draw) -> Generator[Scene, None, None]:
        """The scene after every step of the sides that still write; in the last one all is judged.

        Errors: UserError, before anything is written, for a problem that a side cannot read or
        has no room for.
        """
        prompts = [_asked(side, problem) for side in self.sides]
        settings = SamplingSettings(
            draw.max_tokens or self.limit, draw.temperature, stop=self.recipe.generation.stop
        )
        for side, prompt in zip(self.sides, prompts, strict=True):
            _require_room(side, prompt, settings.max_completion_length)
        return self._run(problem, prompts, settings, draw)

    def _run(
        self,
        problem: Problem,
        prompts: Sequence[Prompt],
        settings: SamplingSettings,
        draw: Draw,
    ) -> Generator[Scene, None, None]:
        blank = tuple(Row(Partial("", (), (), None)) for _ in range(draw.samples))
        lanes = [Lane(side.name, blank) for side in self.sides]
        known = notes(problem, self.recipe.task)
        with ExitStack() as stack:
            streams = [
                stack.enter_context(
                    closing(side.loaded.engine.stream([prompt], draw.samples, settings, draw.seed))
                )
                for side, prompt in zip(self.sides, prompts, strict=True)
            ]
            while not all(lane.over for lane in lanes):
                for place, lane in enumerate(lanes):
                    if lane.over:
                        continue
                    started = self._clock()
                    (partials,) = next(streams[place])
                    seconds = lane.seconds + self._clock() - started
                    rows = _judged(lane.rows, partials, problem, prompts[place])
                    written_so_far = sum(len(partial.token_ids) for partial in partials)
                    lanes[place] = Lane(lane.name, rows, written_so_far, seconds)
                yield Scene(problem, tuple(lanes), known)

    def cut(self, scene: Scene, tokens: int) -> Scene:
        """The scene as it was when no row had more than so many tokens."""
        lanes = tuple(
            replace(lane, rows=tuple(_cut(row, tokens, side.loaded) for row in lane.rows))
            for lane, side in zip(scene.lanes, self.sides, strict=True)
        )
        return replace(scene, lanes=lanes)


def _cut(row: Row, tokens: int, loaded: Loaded) -> Row:
    ids = row.partial.token_ids[:tokens]
    if len(ids) == len(row.partial.token_ids):
        return row
    text = unfinished_text(loaded.tokenizer.decode(ids, skip_special_tokens=True))
    return Row(Partial(text, ids, row.partial.logprobs[:tokens], None))


def _judged(
    before: Sequence[Row], partials: Sequence[Partial], problem: Problem, prompt: Prompt
) -> tuple[Row, ...]:
    """The rows as they are now; each is judged once, when it has ended."""
    return tuple(
        row if row.verdict is not None else _row(partial, problem, prompt)
        for row, partial in zip(before, partials, strict=True)
    )


def _row(partial: Partial, problem: Problem, prompt: Prompt) -> Row:
    if partial.finish_reason is None:
        return Row(partial)
    verdict = check_completion(prompt.for_rewards, prompt.reply(partial.text), problem.columns)
    why = task_of(problem.columns).why_wrong(verdict.answer, problem.columns)
    return Row(partial, verdict, why)


def _asked(side: Side, problem: Problem) -> Prompt:
    """Errors: UserError when the model has no token for a part of the problem."""
    tokenizer = side.loaded.tokenizer
    (prompt,) = ask((problem,), side.recipe, tokenizer)
    unknown = tokenizer.unk_token_id
    # Some tokenizers have one token for this and for the beginning or the end of a text.
    if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return prompt
    if unknown is not None and unknown in prompt.token_ids:
        raise UserError(
            f"the problem {quoted(written(problem))} has a part that {side.name!r} has no token "
            "for; `aha data show` shows problems of its kind."
        )
    return prompt


def _require_room(side: Side, prompt: Prompt, tokens: int) -> None:
    most = getattr(side.loaded.model.config, "max_position_embeddings", None)
    needed = len(prompt.token_ids) + tokens
    if most is not None and needed > most:
        raise UserError(
            f"--max-tokens is {tokens:,}; with the problem's {len(prompt.token_ids):,} that is "
            f"more than the {most:,} tokens that {side.name!r} can have."
        )
