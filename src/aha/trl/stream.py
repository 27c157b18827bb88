"""The native engine's problems in the native engine's order, as TRL's data loader takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from aha.train.schedule import ProblemStream
from aha.types import Problem


class StepSampler(Sampler[int]):
    """Places of the run's problems in the data set, a step's after another's.

    A step's places stand `num_generations` times each, and all of them `repeats` times: TRL's
    loader is read once for every micro-batch of every update, and uses the first reading. The whole
    run is one epoch to TRL, so what it skips on resumption is what is done.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        stream: ProblemStream,
        max_steps: int,
        num_generations: int,
        repeats: int,
    ) -> None:
        self._place = {problem.key: place for place, problem in enumerate(problems)}
        self._stream = stream
        self._max_steps = max_steps
        self._num_generations = num_generations
        self._repeats = repeats

    def __iter__(self) -> Iterator[int]:
        for step in range(1, self._max_steps + 1):
            places = [self._place[problem.key] for problem in self._stream.at(step)]
            for _ in range(self._repeats):
                for place in places:
                    yield from (place for _ in range(self._num_generations))

    def __len__(self) -> int:
        rows = len(self._stream.at(1)) * self._num_generations
        return self._max_steps * rows * self._repeats
