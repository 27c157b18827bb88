"""The form of a rule: small patterns that show a behaviour, with a text they were written for.

Every repetition in a pattern is bounded, so that a search is linear in the text whatever it holds.
Left out: weights and learned scores. A rule holds or it does not, and can be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

# Shorthand in patterns: <n> a number, <op> an operator, <gap> anything within the sentence,
# <alone> no operator before the number that ends here, <next-try> a sum follows that is not
# announced by "wait"; and families of verbs. A space stands for one or two blanks or line ends.
_AFTER_OPERATOR = r"[-+*/=x(\u00d7\u00f7^]"
_SHORTHAND = {
    "<n>": r"\$?-?[0-9]{1,7}(?:\.[0-9]{1,4})?%?",
    "<op>": r"(?:[-+*/x\u00d7\u00f7\u2212]|\\times|\\cdot|times|plus|minus|divided by)",
    "<gap>": r"[^.!?\n]{0,50}?",
    "<find>": (
        r"(?:find|compute|calculate|determine|work out|figure out|count|solve|establish|identify"
        r"|convert|get hold of)"
    ),
    "<alone>": "".join(
        f"(?<!{_AFTER_OPERATOR}{blank}{'[0-9]' * digits})"
        for blank in ("", "[ ]")
        for digits in (1, 2, 3)
    ),
    "<next-try>": r"(?![^<=]{0,20}\b(?:wait|answer|uses?))(?=[^<=]{1,80}=)",
    "<fails-to>": (
        r"(?:doesn't|does not|won't|will not|didn't|did not|don't|do not|can't|cannot|isn't|is not"
        r"|also doesn't) (?:seem to |really |even |quite |going to |to )?(?:work(?:ing|s)?\b"
        r"(?! (?:on|at|for|in|as)\b)|help\b|lead|get (?:me|us)|do it|go anywhere|come out"
        r"|divide evenly)"
    ),
    "<give>": (
        r"(?:still |then |together |now |all )?(?:give|make|produce|equal|vanish|yield|form"
        r"|come (?:to|out|from)|add up|sum to|total|multiply to|contribute|supply|cancel|amount to"
        r"|be worth|be made)\b"
    ),
    "<must>": r"(?:must|needs? to|has to|have to|should|would have to|ought to|had to)",
}
_NAME = re.compile("|".join(map(re.escape, _SHORTHAND)))
# Spaces within a class, and where the pattern looks behind and lengths are fixed, stay as they are.
_SPACE = re.compile(r"\[[^\]]*\]|\(\?<[=!](?:\[[^\]]*\]|[^)\[])*\)| \?| ")
_BLANKS = {" ": r"\s{1,2}", " ?": r"\s{0,2}"}


@dataclass(frozen=True)
class Pattern:
    """A regular expression in lower case, with `'` for apostrophes, that begins with a word.

    One of `cues` stands in whatever it matches, so a text without any need not be searched.
    """

    cues: tuple[str, ...]
    written: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The expression with its shorthand written out."""
        full = _NAME.sub(lambda match: _SHORTHAND[match.group()], self.written)
        return re.compile(_SPACE.sub(lambda match: _BLANKS.get(match.group(), match.group()), full))


@dataclass(frozen=True)
class Rule:
    """What several patterns have in common: the way in which they show a behaviour.

    `task` is the one task it holds for; "" for every one. `example` is a text it is meant for.
    """

    behaviour: str
    name: str
    example: str
    patterns: tuple[Pattern, ...]
    task: str


def rule_of(behaviour: str) -> Callable[..., Rule]:
    """A short way to write a behaviour's rules: name, example, then `("cue|cue", pattern)` each."""

    def rule(name: str, example: str, *patterns: tuple[str, str], task: str = "") -> Rule:
        made = tuple(Pattern(tuple(cues.split("|")), written) for cues, written in patterns)
        return Rule(behaviour, name, example, made, task)

    return rule
