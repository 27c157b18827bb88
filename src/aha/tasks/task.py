"""A task: where its problems come from, how they are asked, how answers are checked.

A task is one subclass in one module, and one line in `aha.tasks`. No other package compares a
task's name or looks for its columns; it asks the task. Unless a subclass says otherwise, a problem
is a text with a gold answer, and answers are compared as mathematics.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

from aha.answers.equal import MAX_CHARACTERS, Pair, normal_text, shared_verifier
from aha.answers.numbers import parse_quantity
from aha.answers.tags import last_boxed, lenient_answer, strict_answer
from aha.sections import TaskSection
from aha.tasks.data import ProblemSet, read_rows
from aha.types import Problem, UserError
from aha.visible import quoted

Columns = Mapping[str, Any]
Split = Literal["train", "test"]

# A constant, not a setting: another fraction would move problems between the splits.
TEST_FRACTION = 0.1
# Held-out problems come from one stream for all recipes and seeds, so accuracies compare.
_TEST_SEED = 0
_GENERATED_TRAIN = 10_000
# GSM8K marks each computation of a gold solution so.
_COMPUTATION = "<<"


def split_of(key: str) -> Split:
    """The split of a problem, from a hash of its key: no seed, order or file can change it."""
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if share < TEST_FRACTION else "train"


def distinct(
    draw: Callable[[], Problem | None], split: Split, patience: int = 20_000
) -> Iterator[Problem]:
    """The problems of one split that `draw` makes, each once.

    It ends after `patience` draws in a row without a new one.
    """
    seen: set[str] = set()
    fruitless = 0
    while fruitless < patience:
        fruitless += 1
        problem = draw()
        if problem is None or problem.key in seen or split_of(problem.key) != split:
            continue
        fruitless = 0
        seen.add(problem.key)
        yield problem


@dataclass(frozen=True)
class Verdict:
    """A checked completion: right in exactly the asked layout (`strict`), or in any (`lenient`).

    Both are False if the row has no usable gold answer (`known` is False).
    """

    strict: bool
    lenient: bool
    well_formed: bool
    answer: str | None
    known: bool = True


@dataclass(frozen=True)
class Vote:
    """The key of an answer in a majority vote: `form`, and the unit it names ("" for none).

    Two answers with one form are the same answer, unless they name different units.
    """

    form: Hashable
    unit: str = ""


def text_key(problem: str) -> str:
    """The identity of a text problem: case and white space do not matter."""
    folded = " ".join(problem.lower().split())
    return f"text:{hashlib.sha256(folded.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def gold_answer(columns: Columns) -> str | None:
    """`answer` (plain, or what follows "####"), else the box in `solution`; None without both."""
    answer = columns.get("answer")
    text = "" if answer is None else str(answer).strip()
    if text and text.lower() != "nan":  # how pandas writes a missing cell
        return text.rpartition("####")[2].strip() if "####" in text else bare(text)
    solution = columns.get("solution")
    return None if solution is None else last_boxed(str(solution))


def bare(answer: str) -> str:
    """An answer without a box around it."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


class Task(ABC):
    """A kind of problem: by default the columns `problem` and, if there is a gold, `answer`.

    `columns` are the columns that `problem` reads from a row. `hub` and `hub_test` are the data
    sets to use when the recipe names no file, written owner/name:config@split.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    hub: ClassVar[str | None] = None
    hub_test: ClassVar[str | None] = None
    own_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the recipe's `task` section that are errors with every other task."""
    generates: ClassVar[bool] = False
    """True if `generate` makes problems, so that no data set is needed."""
    searches: ClassVar[bool] = False
    """True if people solve it by trying combinations: to turn back is to give up a try."""
    example: ClassVar[str] = "a question, and #### ANSWER if you know it"
    """A problem as a person may type it, for a hint."""
    needs_tags: ClassVar[bool] = False
    """True if only answers in tags are read, so that no `prompt.style` may ask for others."""
    rules: ClassVar[str] = "text"
    """The rules of `aha.reasoning` for this task's texts, beside those for all."""
    harness_metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics of the task of this name in lm-evaluation-harness, if it has one."""

    @abstractmethod
    def problem(self, row: Columns, where: str) -> Problem | None:
        """The problem in a row of a data set; None for a row without a gold answer.

        Errors: UserError naming `where`, the column and the value.
        """

    def claims(self, columns: Columns) -> bool:
        """True if a row with these columns is this task's, whatever set it came from."""
        return False

    def generate(self, section: TaskSection, split: Split, seed: int) -> Iterator[Problem]:
        """Distinct problems of one split as a function of the seed, until none are left."""
        raise NotImplementedError(f"task {self.name!r} generates no problems")

    def ranges(self, section: TaskSection) -> str:
        """The keys that bound `generate` with their values, for a message."""
        raise NotImplementedError(f"task {self.name!r} generates no problems")

    def load(self, section: TaskSection, split: Split, limit: int | None) -> ProblemSet:
        """Up to `limit` distinct problems of one split. None: all, or 10,000 generated.

        Problems that the recipe lists are in both splits.
        With a data set of its own for the test split, nothing in that set is trained on. With one
        set for both splits, the content of a problem decides.
        Errors: UserError if the source cannot be read or leaves nothing for the split.
        """
        if section.problems:
            typed = tuple(self.typed(text) for text in section.problems)
            return ProblemSet(typed[:limit], rows=len(typed))
        if section.source is None and self.generates:
            seed = section.data_seed if split == "train" else _TEST_SEED
            stream = self.generate(section, split, seed)
            problems = tuple(islice(stream, limit or _GENERATED_TRAIN))
            if not problems:
                raise UserError(
                    f"task: no problem of {self.name!r} was found for the {split} split; widen the "
                    f"ranges: {self.ranges(section)}."
                )
            return ProblemSet(problems, rows=len(problems))
        source, test_source = section.source, section.test_source
        if source is None:
            if self.hub is None:
                raise UserError(
                    f"task.source is missing; task {self.name!r} has no set of its own."
                )
            source, test_source = self.hub, test_source or self.hub_test
        if test_source is None:
            found = self.read(section, source, limit, lambda p: split_of(p.key) == split)
        elif split == "test":
            found = self.read(section, test_source, limit)
        else:
            held_out = {p.key for p in self.read(section, test_source).problems}
            found = self.read(section, source, limit, lambda p: p.key not in held_out)
        if not found.problems:
            losses = found.losses()
            raise UserError(
                f"task: {source} leaves no problem for the {split} split of {found.rows} rows"
                + (f"; {losses}." if losses else ".")
            )
        return found

    def read(
        self,
        section: TaskSection,
        source: str,
        limit: int | None = None,
        belongs: Callable[[Problem], bool] = lambda problem: True,
    ) -> ProblemSet:
        """The distinct problems of a data set that belong. Errors: UserError if it is not read."""
        problems: dict[str, Problem] = {}
        rows = without_gold = duplicates = other_split = 0
        first_without_gold = ""
        for where, row in read_rows(source, section.columns):
            rows += 1
            problem = self.problem(row, where)
            if problem is None:
                without_gold += 1
                first_without_gold = first_without_gold or where
            elif not belongs(problem):
                other_split += 1
            elif problem.key in problems:
                duplicates += 1
            else:
                problems[problem.key] = problem
                if len(problems) == limit:
                    break
        distinct = tuple(problems.values())
        return ProblemSet(distinct, rows, without_gold, duplicates, other_split, first_without_gold)

    def question(self, columns: Columns) -> str:
        """The problem in words, without an instruction on layout."""
        return str(columns["problem"])

    def compact_question(self, columns: Columns) -> str | None:
        """The question in the embedded model's few words; None if it cannot be said in them."""
        return None

    def read_answer(self, text: str) -> str | None:
        """The answer in a completion whatever its layout; None if there is none."""
        return lenient_answer(text)

    def correct_many(
        self, answers: Sequence[str | None], rows: Sequence[Columns]
    ) -> list[bool | None]:
        """True for each extracted answer that is right; None if its row has no usable gold."""
        golds = [gold_answer(row) for row in rows]
        pairs = [
            Pair(gold, bare(answer or ""))
            for answer, gold in zip(answers, golds, strict=True)
            if gold is not None
        ]
        outcomes = iter(shared_verifier().equal_many(pairs) if pairs else ())
        found = ["no_gold" if gold is None else next(outcomes) for gold in golds]
        return [None if outcome == "no_gold" else outcome == "equal" for outcome in found]

    def gold(self, columns: Columns) -> str | None:
        """The gold answer for people to read; None if the row has none."""
        return gold_answer(columns)

    def why_wrong(self, answer: str | None, columns: Columns) -> str:
        """The fault of an answer that is not right, in words; "" if the row has no gold."""
        gold = gold_answer(columns)
        if gold is None:
            return ""
        if answer is None:
            return "there is no answer"
        return f"the answer is {quoted(answer)}, not {gold}"

    def vote_key(self, answer: str | None) -> Vote | None:
        """The key under which an extracted answer votes; None without an answer.

        By exact value ("1,000", "1000.0", "$1000"), else by the text without what
        `aha.answers.equal` passes over (space, sizes of brackets, dollars).
        Left out: algebra. It compares pairs, for seconds each; a vote needs one form an answer.
        """
        if answer is None or not answer.strip():
            return None
        text = bare(answer)
        if len(text) > MAX_CHARACTERS:
            return Vote(text)
        quantity = parse_quantity(text) or parse_quantity(normal_text(text))
        return Vote(normal_text(text)) if quantity is None else Vote(quantity.value, quantity.unit)

    def difficulty(self, columns: Columns) -> str | None:
        """The class to group by (MATH: level; GSM8K: computations of the gold); None if unknown."""
        level = columns.get("level")
        if level is not None:
            text = str(level)
            return text if text.lower().startswith("level") else f"level {text}"
        steps = str(columns.get("solution", "")).count(_COMPUTATION)
        return f"{steps:2d} steps" if steps else None

    def check(self, columns: Columns, text: str, layout: str | None = None) -> Verdict:
        """The verdict on one completion; `text` has the opening tag that the prompt wrote."""
        return self.check_many([columns], [text], layout)[0]

    def check_many(
        self, rows: Sequence[Columns], texts: Sequence[str], layout: str | None = None
    ) -> list[Verdict]:
        """`check` for many completions; mathematics is compared in parallel processes."""
        answers = [self.read_answer(text) for text in texts]
        # In the exact layout both readings find the same answer, so one comparison serves both.
        correct = self.correct_many(answers, rows)
        well_formed = [strict_answer(text, layout) is not None for text in texts]
        return [
            Verdict(right is True and asked, right is True, asked, answer, right is not None)
            for answer, right, asked in zip(answers, correct, well_formed, strict=True)
        ]

    def typed(self, text: str) -> Problem:
        """A typed problem, and its gold after the last `####`. Errors: UserError with the form."""
        question, marked, gold = text.rpartition("####")
        question, gold = (question.strip(), gold.strip()) if marked else (text, "")
        if not question:
            raise UserError(
                f"the problem {quoted(text)} has no question before ####, which announces its "
                "answer."
            )
        columns = {"problem": question, **({"answer": gold} if gold else {})}
        return Problem(self.name, text_key(question), columns)

    def written(self, columns: Columns) -> str:
        """The problem as a person would type it."""
        return str(columns["problem"])

    def notes(self, problem: Problem, section: TaskSection) -> tuple[str, ...]:
        """Facts about a typed problem that a player needs before judging a model by it."""
        if "answer" in problem.columns:
            return ()
        return ("without an answer nothing can be judged; add one as: QUESTION #### ANSWER",)

    def pool(self, columns: Columns) -> tuple[int, ...]:
        """The numbers that must make `gold`, each used once; empty for a task without them."""
        return ()
