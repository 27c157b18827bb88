"""Rewards for a right answer: exact for Countdown, by equality for mathematics, or by letter."""

from __future__ import annotations

from collections.abc import Sequence

from aha.answers.tags import answer_block
from aha.rewards.reward import Reward, Row
from aha.tasks import TASKS, check_completions
from aha.tasks.countdown import fault
from aha.tasks.reasoning_gym import ReasoningGym, scores
from aha.tasks.task import gold_answer


def correctness(rows: Sequence[Row]) -> list[bool | None]:
    """True for each completion that is right, in the lenient reading; None without usable gold."""
    verdicts = check_completions(
        [row.prompt for row in rows],
        [row.completion for row in rows],
        [row.columns for row in rows],
    )
    return [verdict.lenient if verdict.known else None for verdict in verdicts]


class AccuracyReward(Reward):
    """1 when the answer is right, else 0; None when the row's gold is missing or unreadable.

    Lenient reading (see `aha.answers.tags`). Countdown (`target`, `nums`): an expression that uses
    each number exactly once and equals the target. Otherwise (`answer` or `solution`):
    mathematical equality. Source: DeepSeek-R1 (arXiv:2501.12948) section 2.2.2; open-r1.
    """

    name = "accuracy"

    def score_batch(self, rows: Sequence[Row]) -> list[float | None]:
        return [None if right is None else float(right) for right in correctness(rows)]


class CorrectnessReward(Reward):
    """`value` when the last answer block equals the gold as a string, spaces at its ends aside;
    else 0; None where the row has no gold.

    Strict on purpose: "$72" is not "72". Columns: answer (plain or "... #### 72") or solution
    (boxed). Source: the GRPO lab's correctness_reward_func.
    """

    name = "correctness"
    value: float = 2.0

    def score(self, row: Row) -> float | None:
        gold = gold_answer(row.columns)
        if gold is None:
            return None
        return self.value if answer_block(row.text) == gold else 0.0


class EquationReward(Reward):
    """`correct` for an expression that uses each given number exactly once and equals the
    target, `valid` for an expression that misses either, 0 otherwise.

    Range 0 to `correct`; reads the last answer block. Columns: target, nums. Source: MiniR1 and
    TinyZero, with their faults mended: exact fractions instead of `eval`, integers only
    (`1.5*2` does not use 1, 5 and 2), and `65 = 55 + 10` is read.
    """

    name = "equation"
    needs = ("target", "nums")
    correct: float = 2.0
    valid: float = 0.1

    def score(self, row: Row) -> float:
        is_expression, wrong = fault(
            answer_block(row.text), row.columns["target"], row.columns["nums"]
        )
        if not is_expression:
            return 0.0
        return self.valid if wrong else self.correct


class GymReward(Reward):
    """The score of the answer by the verifier of its reasoning-gym set, 0 to 1; 0 without one.

    Lenient reading. Many sets give a part of the score to an answer that is nearly right. Columns:
    those of the task reasoning-gym. Source: reasoning-gym's score_answer.
    """

    name = "gym"
    needs = ReasoningGym.columns

    def score_batch(self, rows: Sequence[Row]) -> list[float | None]:
        task = TASKS[ReasoningGym.name]
        answers = [task.read_answer(row.text) for row in rows]
        return list(scores(answers, [row.columns for row in rows]))
