"""Rules of subgoals: a quantity to find first, a part of the task, a question on the way."""

from __future__ import annotations

from aha.reasoning.rules import Rule, rule_of

_rule = rule_of("subgoals")

SUBGOALS: tuple[Rule, ...] = (
    _rule(
        "first_find",
        "First I find how many marbles are red: 60 / 4 = 15.",
        (
            "begin|first|start",
            r"(?:first(?:ly)?|to begin|to start|start by|begin by|starting with)[,:]? (?:of"
            r" all,? )?(?:(?:i|we|let's|let me|let us|you)(?:'ll|'d| will| would| must|"
            r" should| can| want to| have to| like to)? )?(?:need(?: to)? |have to"
            r" )?(?:<find>|finding|computing|calculating|determining|counting|get (?:the|a"
            r"|an)|make|build|know|want|need|look (?:for|at)|how (?:many|much|long|far))\b",
        ),
    ),
    _rule(
        "first_needed",
        "I'll work out the square first, then the circles.",
        (
            "first",
            r"(?:i'll|we'll|let's|let me|i|we|must|to|should|will|can) first (?:need|want"
            r"|<find>|get|make|build)",
        ),
        ("first", r"first (?:i|we)(?:'d)? (?:need|want)"),
        ("first", r"(?:do|handle|take|work out|find|get|compute) the [a-z ]{2,25} first\b"),
        ("first", r"[a-z]{3,15} first,? (?:and )?(?:then|next|after)\b"),
        ("first", r"[a-z]{3,15} first \([^)\n]{1,30}\), [a-z]{3,15} next"),
        ("first:", r"[a-z]{3,15} first:"),
        ("first", r"first,? (?:for )?the [a-z ]{3,30}[:.,]"),
        ("then", r"<find> the [^.,\n]{3,40}, (?:and )?then\b"),
    ),
    _rule(
        "then_find",
        "Then find what is left for the week.",
        (
            "after|also|finally|lastly|next|now|second|then|third",
            r"(?:then|next|after that|secondly|second|finally|now|also|lastly|third)[,:]?"
            r" (?:i |we |let's |let me |i'll |we'll |you )?(?:also )?(?:need to |can |have"
            r" to |must |want to |should |need )?(?:<find>|how (?:many|much|long|far)|week"
            r"|the (?:number|total|amount|cost|price|area|volume|length|time) (?:of|for|in"
            r"|she|he))\b(?! (?:it|this|that) for)",
        ),
        ("now", r"[.!?\n] ?now (?:for |on to |to )?the [a-z ]{3,25}[:.]"),
    ),
    _rule(
        "step_names_its_goal",
        "Step 1: Find how many muffins are left.",
        (
            "step",
            r"step (?:[0-9]{1,2}|one|two|three|four)\b[^a-z0-9\n$\\(]{1,5}(?:we |let's |i "
            r"|let me )?(?:need to )?(?:<find>|get|multiply|add|subtract|divide|how|the|set"
            r" up|look|cost|total|number|what|make|choose)\b",
        ),
    ),
    _rule(
        "split",
        "Let's break it down. Monday: 12 km.",
        (
            "break",
            r"break(?:ing)? (?:it|this|that|the (?:problem|task|question|job|sum)|things)"
            r" (?:all )?(?:down|up|into)",
        ),
        (
            "cut|decompose|divide|separate|split",
            r"(?:split|separate|cut|divide|decompose)(?:ting|ing)? (?:it|this|that|the"
            r" (?:problem|task|shape|figure|region|integral|sum|area|trip|job|polygon"
            r"|l-shape|solid|count)) (?:up |down )?(?:in|into|by|at|along)\b",
        ),
        (
            "parts|pieces|stages|steps",
            r"in (?:two|three|<n>|several) (?:parts|pieces|stages|steps)\b",
        ),
        ("piece", r"piece by piece"),
        ("part", r"part by part"),
        (
            "both|each|them",
            r"(?:each|them|both) (?:of them )?(?:alone|separately|on (?:its|their) own)",
        ),
    ),
    _rule(
        "two_things",
        "Two things to figure out, what Jo earns and what she spends.",
        (
            "amounts|cases|claims|conditions|costs|facts|jobs|numbers|parts|pieces|quantities|questions|steps|subproblems|tasks|things|unknowns",
            r"(?:two|three) (?:things|parts|pieces|cases|facts|quantities|unknowns|questions"
            r"|tasks|jobs|steps|amounts|costs|subproblems|numbers to find|claims"
            r"|conditions)\b(?=[^.\n]{0,30}(?:\bto\b|needed|required|are|:|here))",
        ),
    ),
    _rule(
        "cases",
        "Case 1: n is even, so n = 2k.",
        ("case", r"(?:^|[.:;\n*] ?)\*{0,2}case (?:<n>|one|i|a|1)\b"),
        ("cases", r"by cases\b"),
        ("cases", r"(?:split|distinguish|consider|look at)[a-z ]{0,15} cases\b"),
        ("(i)", r"[:.] \(i\) "),
    ),
    _rule(
        "part_named",
        "Next aim: 17 with the 9 and the 8.",
        ("half", r"half of the (?:job|work|task)"),
        ("goal|problem|target|task", r"sub-?(?:problem|goal|task|target)s?\b"),
        (
            "aim|goal|job|target|task",
            r"(?:next|new|my|our|intermediate) (?:aim|goal|job|task|target)\b",
        ),
        ("job|task", r"(?:the )?(?:job|task) is (?:now |then )?(?:an? |to )"),
        ("aim", r"(?:^|[.!?\n,] ?)(?:so |now |i |we |then |instead )?aim (?:for|at)\b"),
        ("aiming", r"aiming for"),
        ("the", r"the key is to\b"),
        ("find|need|want", r"(?:want|need|find) [^.\n]{3,30} on the way\b"),
        ("enough|suffices", r"it (?:suffices|is enough) to\b"),
        ("part|piece", r"(?:missing|first|second|other|next) (?:part|piece)(?: is\b|:)"),
        ("goal|part|phase|stage|task", r"(?:part|phase|stage|task|goal) (?:1|2|one|two|a|b)\b"),
        ("plan", r"(?:my |the )?plan(?:: | is to\b| is: )"),
        ("plan", r"my plan\b"),
    ),
    _rule(
        "to_find_we_need",
        "To compute the probability, we need the number of favourable outcomes and of all.",
        (
            "have|must|need|require|should",
            r"(?:to|for) (?:<find>|get|know|answer|obtain|the|have) (?!<n>)[^.,\n]{2,50},"
            r" ?(?:i|we|you)(?:'ll)? (?:first |only |just |will |also )?(?:need|must|have to"
            r"|require|should)\b",
        ),
        (
            "need|want",
            r"(?:we|i)(?:'ll)? (?:will )?(?:need|want) (?:to know )?(?:both )?the"
            r" [^.\n]{2,40} and (?:then )?the\b",
        ),
        ("once", r"once (?:these|this|those|that|i|we|both) (?:are|is|have|know|has)\b"),
        ("before", r"before (?:that|this|i|we)[a-z ]{0,15} (?:need|must|have to)\b"),
        ("before|first", r"i(?:'ll)? need to (?:know|<find>) [^.\n]{3,60} (?:first|before)\b"),
        ("after", r"after that (?:i|we) need"),
        ("know", r"(?:i|we)(?:'ll)? (?:first |also |then |now )?(?:need|want|have) to know\b"),
    ),
    _rule(
        "asks_on_the_way",
        "how many minutes does he run a week? 3 * 20 = 60.",
        (
            "?",
            r"(?:^|[.\n] |and |so |then )(?:so |and |then |now )?(?:how (?:many|much|long"
            r"|far|old)|what(?:'s| is| are| does)) [^.?!\n]{3,60}\?(?= ?\n?[^.?!]{0,20}[0-9])",
        ),
        task="gsm8k",
    ),
    _rule(
        "number_to_build",
        "Let me make a small number out of the two big ones, 48 - 45 = 3.",
        (
            "build|create|form|get|like|make|want",
            r"(?:i|we|i'd|we'd|let me|let's|can i|could i|now|to|if i|could|can|try"
            r" to)(?:'ll|'d| would| could| can| will)? ?(?:first |still |also |then |now"
            r" )?(?:make|build|get|create|form|want|like) (?:an? |the )(?:<n>|small|big"
            r"|large|even|multiple)\b(?! (?:we|i) )",
        ),
        (
            "build|get|make",
            r"(?:get|make|build) (?:an? |the )<n> (?:from|out of|with|using|first|and)",
        ),
        ("from|out|with", r": an? <n> (?:from|out of|with)\b"),
        ("from|out|with", r": <n> (?:from|out of|with) (?:the )?<n>"),
        ("first|then", r"<n> (?:first|and then (?:multiply|add|subtract|divide|times))\b"),
        ("make", r"make(?<!to make) <n> (?:from|out of|with|first)"),
        ("need", r"(?:i|we)(?:'d)? need an? <n>"),
        ("could|would", r"an? <n> (?:would|could) (?:help|be)\b"),
        ("then", r"(?:make|get|build|form) (?:an? )?<n>,? (?:and )?then\b"),
        task="countdown",
    ),
    _rule(
        "named_quantities",
        "Let S_1 be the sum of the odd terms and S_2 be that of the even ones.",
        ("let", r"let \$?[a-z]_?[0-9]?\$? be [^.\n]{3,60} and \$?[a-z]_?[0-9]?\$? (?:be|the)\b"),
        task="math",
    ),
)
