"""A game: a model and the one it began from write on the same problem, and are judged.

Both draw with the same random numbers, as in `aha eval`, so a seed gives the same texts again. They
write in turns, a step or a burst each, and each one's speed is that of its own steps. Left out:
conversations. Every problem stands alone, as in training.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cached_property

from aha.model.load import positions_of
from aha.play.scene import Lane, Row, Scene
from aha.recipe import Recipe
from aha.rollout.base import Partial, SamplingSettings, unfinished_text
from aha.runs import find_runs
from aha.tasks import TASKS, Task, check_completion, load_problems
from aha.tasks.prompts import ask
from aha.tiny import TINY_NAME
from aha.train.checkpoint import latest_checkpoint
from aha.trained import Loaded, find_subject, load, own_recipe, recipe_for
from aha.types import Problem, Prompt, UserError
from aha.visible import quoted

# Held-out problems to choose from: those that evaluation asks first.
_HELD_OUT = 500
# Longer than any problem of GSM8K or MATH; a prompt is read in one piece.
MAX_CHARACTERS = 2_000
MAX_SAMPLES = 64
_COLDEST, _HOTTEST = 0.01, 10.0
_FASTEST = 1_000_000  # tokens a second
_WARM_UP = 4  # tokens
ALONE = "none"
FRAME_S = 1 / 12


@dataclass(frozen=True)
class Draw:
    """The settings of a game.

    `temperature` 0 is greedy. `pace` is the most tokens a second to show of each row, since a small
    model writes thousands; 0: no limit. `wish`: the tokens to ask for, where the model was trained
    to have them; by default the problem's own. Errors: UserError naming what is out of range.
    """

    samples: int = 1
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int | None = None
    pace: float = 0.0
    wish: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise UserError(f"samples is {self.samples}; allowed are 1 to {MAX_SAMPLES}.")
        # Lower ones, and NaN, make infinities of the model's logits.
        if self.temperature != 0 and not _COLDEST <= self.temperature <= _HOTTEST:
            raise UserError(
                f"temperature is {self.temperature:g}; allowed are 0 (greedy) and {_COLDEST:g} to "
                f"{_HOTTEST:g}."
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must be 0 to 2**63 - 1.")
        if not 0 <= self.pace <= _FASTEST:
            raise UserError(
                f"the pace is {self.pace:g}; it must be 0 (no limit) to {_FASTEST:,} tokens/s."
            )


@dataclass(frozen=True)
class Player:
    """A model, its name for people, and the recipe that says how to ask it."""

    name: str
    recipe: Recipe
    loaded: Loaded


def open_session(
    target: str | None = None,
    against: str | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    max_tokens: int | None = None,
) -> Session:
    """Load `target`, and `against` to play beside it, with the options of `aha play`.

    `target` None: the latest run of the embedded model that has a checkpoint, else that model.
    `against` None: the model that the run began from, if any; "none": no second model.
    Errors: UserError naming what is wrong with an option or a model.
    """
    runs_of_tiny = (
        str(run.path)
        for run in find_runs()
        if latest_checkpoint(run.checkpoints) and run.recipe().model.name == TINY_NAME
    )
    target = target or next(runs_of_tiny, TINY_NAME)
    first = find_subject(target)
    other = against or (None if first.run is None else first.run.recipe().model.name)
    second = None if other in (None, ALONE, target) else find_subject(str(other))
    first_recipe = recipe_for(first, recipe, overrides)
    players = [Player(first.name, first_recipe, load(first_recipe))]
    if second is not None:
        if own_recipe(second) is not None or recipe is not None:
            second_recipe = recipe_for(second, recipe, overrides)
        else:
            # No recipe says how to ask this model, so it is asked as the first one.
            model = first_recipe.model.model_copy(update={"name": second.source})
            second_recipe = first_recipe.model_copy(update={"model": model})
        second_recipe = second_recipe.model_copy(update={"task": first_recipe.task})
        try:
            loaded = load(second_recipe)
        except UserError as error:
            if against is not None:
                raise
            raise UserError(f"{error} Play the model alone with --against {ALONE}.") from None
        # The model that the run began from stands first: on the left.
        players.insert(0, Player(second.name, second_recipe, loaded))
    for player in players:
        # A first call does work that would count as slowness of the first game.
        prompt = Prompt("", "", tuple(player.loaded.tokenizer.encode("1")))
        settings = SamplingSettings(_WARM_UP, ignore_end=True)
        player.loaded.engine.generate([prompt], 1, settings, seed=0)
    limit = max_tokens or first_recipe.generation.max_completion_length
    return Session(tuple(players), first_recipe, limit)


@dataclass
class Session:
    """The models of a game, loaded once for many problems.

    The task and stop texts of `recipe` hold for all. A completion has at most `limit` tokens.
    `known` holds the held-out problems by the text that a person types.
    """

    players: tuple[Player, ...]
    recipe: Recipe
    limit: int
    clock: Callable[[], float] = time.perf_counter
    known: dict[str, Problem] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return TASKS[self.recipe.task.name]

    @cached_property
    def held_out(self) -> tuple[Problem, ...]:
        """Problems that were never trained on. Errors: UserError as `load_problems`."""
        problems = load_problems(self.recipe.task, "test", _HELD_OUT).problems
        self.known = {self.task.written(problem.columns): problem for problem in problems}
        return problems

    def random_problem(self, seed: int) -> Problem:
        """One of the held-out problems; the same for the same seed."""
        return random.Random(seed).choice(self.held_out)

    def typed(self, text: str) -> Problem:
        """The problem that a person wrote. A held-out problem keeps its answer.

        Errors: UserError when the text is empty, too long, or not of the task's form.
        """
        text = text.strip()
        if text in self.known:
            return self.known[text]
        if not text:
            raise UserError("the problem is empty; type one.")
        if len(text) > MAX_CHARACTERS:
            raise UserError(
                f"the problem has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read."
            )
        return self.task.typed(text)

    @property
    def wishes(self) -> tuple[int, int] | None:
        """The lengths that the model was trained to write on request, in tokens; None for none."""
        return self.players[-1].recipe.length.wish

    def play(self, problem: Problem, draw: Draw) -> Generator[Scene, None, None]:
        """The scene after every step of the players that still write. In the last, all is judged.

        Errors: UserError, before anything is written, for a problem that a player cannot read or
        has no room for.
        """
        tokens = draw.max_tokens or self.limit
        prompts = [_prompt_for(player, problem, tokens, draw.wish) for player in self.players]
        return self._scenes(problem, prompts, draw)

    def _scenes(
        self, problem: Problem, prompts: Sequence[Prompt], draw: Draw
    ) -> Generator[Scene, None, None]:
        settings = SamplingSettings(
            draw.max_tokens or self.limit, draw.temperature, stop=self.recipe.generation.stop
        )
        blank = tuple(Row(problem, Partial("", (), (), None)) for _ in range(draw.samples))
        lanes = [Lane(player.name, blank) for player in self.players]
        notes = self.task.notes(problem, self.recipe.task)
        with ExitStack() as stack:
            streams = []
            for player, prompt in zip(self.players, prompts, strict=True):
                stream = player.loaded.engine.stream([prompt], draw.samples, settings, draw.seed)
                streams.append(stack.enter_context(closing(stream)))
            while not all(lane.over for lane in lanes):
                for place, lane in enumerate(lanes):
                    if lane.over:
                        continue
                    started = self.clock()
                    (partials,) = next(streams[place])
                    seconds = lane.seconds + self.clock() - started
                    rows = list(lane.rows)
                    for i, partial in enumerate(partials):
                        if rows[i].verdict is None:  # each row is judged once, when it has ended
                            rows[i] = _row(partial, problem, prompts[place])
                    written = sum(len(partial.token_ids) for partial in partials)
                    lanes[place] = Lane(lane.name, tuple(rows), written, seconds)
                yield Scene(problem, tuple(lanes), notes)

    def cut(self, scene: Scene, tokens: int) -> Scene:
        """The scene as it was when no row had more than so many tokens."""
        lanes = []
        for lane, player in zip(scene.lanes, self.players, strict=True):
            rows = []
            for row in lane.rows:
                ids, logprobs = row.partial.token_ids[:tokens], row.partial.logprobs[:tokens]
                if len(ids) < len(row.partial.token_ids):
                    decoded = player.loaded.tokenizer.decode(ids, skip_special_tokens=True)
                    row = Row(row.problem, Partial(unfinished_text(decoded), ids, logprobs, None))
                rows.append(row)
            lanes.append(replace(lane, rows=tuple(rows)))
        return replace(scene, lanes=tuple(lanes))


@dataclass(frozen=True)
class Tally:
    """The games begun and ended; for each model its name, its right completions, those judged."""

    scores: tuple[tuple[str, int, int], ...] = ()
    ended: int = 0
    begun: int = 0

    def with_game(self, scene: Scene) -> Tally:
        before = self.scores or (("", 0, 0),) * len(scene.lanes)
        scores = tuple(
            (lane.name, right + lane.right, judged + lane.judged)
            for lane, (_, right, judged) in zip(scene.lanes, before, strict=True)
        )
        return replace(self, scores=scores, ended=self.ended + 1)

    def __str__(self) -> str:
        """`so far: aha-tiny 1 of 5, mine 4 of 5`; "" before the second game."""
        if self.ended < 2 or not any(judged for _, _, judged in self.scores):
            return ""
        return "so far: " + ", ".join(f"{name} {right} of {n}" for name, right, n in self.scores)


def who_plays(names: Sequence[str]) -> str:
    """The models' names. With one model, also how to put a second beside it."""
    if len(names) > 1:
        return " beside ".join(names)
    return f"{names[0]} alone; --against MODEL, or a run of `aha train`, puts another beside it"


def frames(
    session: Session,
    scenes: Generator[Scene, None, None],
    pace: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[Scene, None, None]:
    """The scenes to show: a few a second, and the last one always, once, at the end.

    The speed that a scene states stays the real one, whatever the pace.
    """
    begun = clock()
    shown_at = begun - FRAME_S
    with closing(scenes):
        for scene in scenes:
            rows = [row for lane in scene.lanes for row in lane.rows]
            longest = max(len(row.partial.token_ids) for row in rows)
            while pace and longest > (due := int((clock() - begun) * pace)):
                yield session.cut(scene, due)
                sleep(FRAME_S)
                shown_at = clock()
            if scene.over or clock() - shown_at >= FRAME_S:
                shown_at = clock()
                yield scene


def _row(partial: Partial, problem: Problem, prompt: Prompt) -> Row:
    """The row as it stands, with a verdict if it has ended."""
    if partial.finish_reason is None:
        return Row(problem, partial)
    asked, reply = prompt.for_rewards, prompt.reply(partial.text)
    return Row(problem, partial, check_completion(asked, reply, problem.columns, prompt.layout))


def _prompt_for(player: Player, problem: Problem, tokens: int, wish: int | None) -> Prompt:
    """The problem as the player sees it, with room for `tokens` more.

    Errors: UserError when the model has no token for a part of it, or no room.
    """
    tokenizer = player.loaded.tokenizer
    (prompt,) = ask((problem,), player.recipe, tokenizer, None if wish is None else [wish])
    unknown = tokenizer.unk_token_id
    # Some tokenizers have one token for this and for the beginning or the end of a text.
    own = unknown not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if unknown is not None and own and unknown in prompt.token_ids:
        asked = quoted(TASKS[problem.task].written(problem.columns))
        raise UserError(
            f"the problem {asked} has a part that {player.name!r} has no token for; "
            "`aha data show` shows problems of its kind."
        )
    most = positions_of(player.loaded.model.config)
    if most is not None and len(prompt.token_ids) + tokens > most:
        raise UserError(
            f"--max-tokens is {tokens:,}; with the problem's {len(prompt.token_ids):,} that is "
            f"more than the {most:,} tokens that {player.name!r} can have."
        )
    return prompt
