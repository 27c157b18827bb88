"""Rules of self_check: a result is compared with what was asked, tested or recomputed."""

from __future__ import annotations

from aha.reasoning.rules import Rule, rule_of

_rule = rule_of("self_check")

SELF_CHECK: tuple[Rule, ...] = (
    _rule(
        "announced",
        "Let me check: 30 - 6 = 24 and 24 / 8 = 3.",
        (
            "check|confirm|make|validate|verify",
            r"(?:let me|let's|let us|i'll|i will|we can|we|to|now|i can|and|should|quick"
            r"|sanity|i'd better|better) (?:quickly |just |now |also |first |do a |run a"
            r" )?(?:(?:double|cross|sanity|quick)[ -]?)?(?:re-?check|check|verify|confirm"
            r"|validate|make sure)\b(?! the (?:problem|question|statement|wording|task)|"
            r" whether| only| in\b| out\b)(?=[^\n]{0,80}[0-9])",
        ),
    ),
    _rule(
        "headed",
        "Verify: 10 / (2 + 3) = 2.",
        (
            "check|proof|test|verification|verify",
            r"(?:^|[.!?\n(*] ?)(?:(?:a |as a |quick |sanity |cross[ -]|double[ -]"
            r"|re-?){0,2}check(?:ing)?|verify(?:ing)?|verification|test(?:ing)?|proof)(?:"
            r" (?:this|that|it|the (?:answer|result)))?\*{0,2}"
            r" ?[:,\u2013\u2014-](?=[^\n]{0,60}[0-9])",
        ),
    ),
    _rule(
        "checking",
        "Let me recompute 12 * 9 = 108.",
        (
            "add|calculat|checking|comput|count|verifying",
            r"(?:^|[.!?,;\n] ?|let me |i'll |by )(?:double[ -])?(?:checking|verifying"
            r"|re-?add(?:ing)?|re-?comput(?:e|ing)|re-?calculat(?:e|ing)"
            r"|re-?count(?:ing)?)\b(?! the (?:problem|question"
            r"|statement))(?=[^\n]{0,60}[0-9])",
        ),
    ),
    _rule(
        "is_not",
        "39 + 5 = 44 , not 15",
        (
            "not",
            r"(?:=|is|are|gives|makes?|get|equals|be) ?<n>(?:"
            r" [a-z]{1,8})?[^a-z0-9=]{1,5}(?:but |and |so |that's |that is |which is |this"
            r" is |it's |is |still |again |sadly ){0,2}not (?:quite |equal to |equal |yet "
            r"|the )?(?:<n>|target|goal|what|it\b|enough)",
        ),
    ),
    _rule(
        "verdict",
        "19 - 17 = 2 , yes .",
        (
            "bingo|correct|exactly|good|great|nice|no|nope|perfect|right|works|yes",
            r"= ?<n>(?: [a-z]{1,8})?[^a-z0-9=<]{1,5}(?:and |so |that's |that is |which is "
            r"|this is |it is |it's |oh |ok |okay ){0,2}(?:yes|nope|no|right|correct|perfect"
            r"|exactly|bingo|works|good|great|nice)(?=\s?[.,!;:\n]|\s?\Z)",
        ),
        task="countdown",
    ),
    _rule(
        "right_it_is",
        "Yes, 72 is right.",
        (
            "correct|right|yes",
            r"(?:yes|right|correct)[,.!] (?:that's|that is|it's|it is|this is|we (?:have"
            r"|get|got)) ?(?:<n>|right|correct|indeed)?",
        ),
        ("yes", r"yes[,.!] <n>"),
        (
            "exactly|indeed|what",
            r"(?:which|that|this|it) (?:is|are) (?:indeed|exactly (?:what|the (?:target"
            r"|number)|right|as)|(?:just )?what (?:we|i|was|the)\b)",
        ),
        ("that's", r"that's (?:right|correct|it\b)"),
        ("which", r"which is (?:right|correct|the target)"),
        ("correct|right", r"[0-9] is (?:right|correct)\b"),
    ),
    _rule(
        "tick",
        "12 + 12 + 4 = 28 \u2714",
        (
            "\u2611|\u2705|\u2713|\u2714|\u2717|\u2718|\u274c",
            r"[\u2713\u2714\u2705\u2611\u274c\u2717\u2718]",
        ),
    ),
    _rule(
        "too_large",
        "6 * 7 = 42, too high",
        (
            "too",
            r"(?:that's|that is|which is|it's|this is|still|way|=\s?<n>|<n>),? (?:is"
            r" )?(?:still |way |far |a bit |much |also |just )?too (?:high|low|big|small"
            r"|large|much|little|many|few|far|short|long)\b",
        ),
    ),
    _rule(
        "distance",
        "11 + 9 - 2 = 18, 1 short of 19.",
        ("overshoot", r"overshoots?"),
        ("undershoot", r"undershoots?"),
        ("overshot", r"overshot"),
        ("undershot", r"undershot"),
        (
            "above|away|below|beyond|more|off|over|past|short|too|under",
            r"(?<!the )<n> (?:too (?:many|much|few)|away|off|short|over\b|under\b|above"
            r"|below|beyond|past|more than (?:we|the target))",
        ),
        ("short", r"falls? short"),
        ("way", r"way off"),
        ("off", r"off by"),
        ("short", r"short (?:of|by)"),
        ("over", r"over by"),
        ("under", r"under by"),
        ("miss", r"miss(?:es|ed)? (?:the target|by|it)"),
        ("exceed", r"exceeds? (?:the )?(?:target|<n>)"),
        ("close", r"(?:too|so|very|pretty) close"),
        ("close", r"close,? but"),
        ("close", r"close to (?:the )?(?:<n>|target)"),
        ("almost", r"almost(?: there| <n>)?[,.!]"),
        ("from", r"far from"),
        ("past", r"past (?:the )?(?:<n>|target)"),
        task="countdown",
    ),
    _rule(
        "is_off",
        "Two thirds of 20 is 13.33, so that's off.",
        (
            "off",
            r"(?:that's|that is|is|it's|this is|so it's) (?:also |way |still |a bit |clearly"
            r" |<n> )?off\b(?! work| the\b| on\b| each| every| of\b| for\b)",
        ),
    ),
    _rule(
        "against_what_was_asked",
        "45 + 18 = 63, but the target was 62.",
        (
            "need|want",
            r"= ?<n>[^a-z0-9]{1,4}(?:but |and |while |whereas )?(?:we|i) (?:need|needed|want"
            r"|wanted)(?:ed)? <n>",
        ),
        (
            "answer|goal|problem|question|statement|target|text|total",
            r"(?:but|whereas|while|;) ?(?:the|our|my|it) (?:target|goal|problem|question"
            r"|statement|text|total|answer)(?: (?:was|is|said|says|asks|asked|gave|gives"
            r"|wants|should be|states))",
        ),
        (
            "goal|target",
            r"(?:matches|equals|hits?|reach(?:es)?|is|misses) (?:exactly )?(?:the|our)"
            r" (?:target|goal)\b",
        ),
        (
            "asked|said|says|wanted",
            r"<n>[^a-z0-9]{1,4}(?:the problem|it|the question) (?:said|says|asked for|wanted)",
        ),
        ("supposed", r"supposed to be"),
    ),
    _rule(
        "agrees",
        "Now forward again: 90 / 2 = 45, 45 - 15 = 30. It fits.",
        (
            "add|agree|check|coincide|consistent|fit|match|satisfied",
            r"(?:counts?|answers?|results?|methods?|both|they|these|numbers|totals?|it|that"
            r"|which|this|all) (?:all |both |also |do |does |indeed )?(?:agrees?"
            r"|match(?:es)?|fits?|add up|adds up|checks? out|is consistent|are consistent"
            r"|coincides?|is satisfied)\b(?! to <n>| with <n> (?:people|kids|students)|s?"
            r" in(?:to|side)\b)",
        ),
        (
            "answer|number|result|thing|total|value",
            r"the same (?:answer|result|number|value|total|thing)(?: as| again|,|\.)",
        ),
        (
            "claimed|expected|given|hoped|promised|required|should|stated",
            r"as (?:expected|required|it should|stated|given in|claimed|hoped|promised)\b",
        ),
    ),
    _rule(
        "indeed",
        "So the numbers are 11, 12 and 13, and indeed 11 + 12 + 13 = 36.",
        ("enough|indeed", r"(?:and|so|,|then|yes,?) ?(?:indeed|sure enough)(?=[^.\n]{0,40}[0-9])"),
        ("indeed", r"indeed,? \$?(?=[^.\n]{0,30}=)"),
    ),
    _rule(
        "as_well",
        "The big box minus the corner is 64 - 30 = 34 too.",
        ("again|also", r"(?:is|are|=) (?:also|again) <n>"),
        (
            "again|too|well",
            r"= ?<n>\$?(?: [a-z]{1,10})?,? (?:too|as well|again)\b(?! (?:high|low|big|small"
            r"|large|much|many|few|little|far|long|short|by|for|and))",
        ),
        ("again|also", r"(?:also|again) (?:gives?|get|makes?|yields?) \$?<n>"),
    ),
    _rule(
        "works",
        "7 * 3 = 21 and 21 + 4 = 25, so it works.",
        (
            "work",
            r"(?:that|which|so it|and it|both|this one|this) (?:also |still |really"
            r" )?works?(?=\s?[.!,:;\n)]|\s?\Z| because| since| out[.,!])",
        ),
        ("true", r"(?:which|it|that) (?:is|holds) true"),
        ("satisf", r"(?:which|this|it) satisf(?:y|ies)"),
        ("satisfied", r"is satisfied"),
    ),
    _rule(
        "sensible",
        "That is 4 hours, which seems reasonable.",
        (
            "sense",
            r"(?:which|that|this|it|answer|result)? ?(?:makes? (?:perfect )?sense|make no"
            r" sense|makes no sense)",
        ),
        (
            "absurd|consistent|correct|fine|high|low|off|plausible|realistic|reasonable|right|wrong",
            r"(?:is|seems|looks|sounds) (?:about |quite |very |also |un)?(?:reasonable"
            r"|plausible|realistic|right|fine|correct|wrong|absurd|low|high|off|consistent)\b",
        ),
        ("rough", r"rough(?:ly|ed)? (?:check|estimate)"),
        ("ballpark", r"ballpark"),
        ("order", r"order of magnitude"),
        ("about", r"about right"),
        ("close", r"close enough"),
        (
            "than",
            r"(?:more|less|fewer) than (?:he|she|they|there|we|you|it) (?:had|have|has"
            r"|started|are|were|owns?|owned|can)\b",
        ),
    ),
    _rule(
        "asked_itself",
        "Wait, is that right? 18 * 4 = 72.",
        (
            "?",
            r"(?:is|are|does|do|did|was|can|could|would|will) (?:that|this|it|these|those"
            r"|they|the answer|the result|<n>)[^.?!\n]{0,25}(?:right|correct|works?|fit"
            r"|match|add up|possible|sense|enough|hold|true|allowed|<n>|valid|used)\s?\?",
        ),
        ("?", r"(?:[,.] |^|\n)(?:right|correct|does it work|all used|ok|sure)\?"),
    ),
    _rule(
        "put_back",
        "Plugging x = 3 back in gives 2 * 3 + 1 = 7.",
        (
            "back",
            r"(?:plug(?:ging|ged)?|substitut(?:e|ing|ed)|put(?:ting)?|insert(?:ing)?"
            r"|sub(?:bing)?|go(?:ing)?) <gap>\bback(?: in\b| into\b|:|,| gives| we)(?! time)",
        ),
        ("forward", r"(?:now|go|going|run|running|and) (?:it )?forwards?(?: again)?\b"),
        ("back", r"back into (?:the|both)"),
        ("original", r"in(?:to)? (?:the|both) original (?:equation|problem|condition)s?"),
        (
            "back",
            r"(?:multiply|add|divid|subtract)(?:e|ing)? (?:it |that |this |them |the"
            r" <gap>)?back\b",
        ),
    ),
    _rule(
        "used_once",
        "Each number is used once: 3, 4 and 8.",
        (
            "used",
            r"(?:numbers?|all|each|every|both|three|four) <gap>(?:is|are|was|were|get|gets"
            r"|been)? ?used(?: exactly| just| only)? ?(?:once|up)?(?=[\s.,:!;)]|\Z)",
        ),
        ("use", r"uses (?:all|each|every|both|up)\b"),
        ("use", r"used? (?:<n>|it|the <n>|one number|a number|both <n>s) (?:twice|two times)"),
        ("left|used", r"(?:is|was|still|are) (?:left over|left out|left unused|unused|not used)"),
        ("leave", r"leaves? (?:the )?<n> (?:unused|over\b|out)"),
        ("use", r"(?:didn't|did not|don't|haven't|never|have not) use[d]? (?:the|all|<n>)"),
        task="countdown",
    ),
    _rule(
        "impossible",
        "x = -3 or x = 5, and a length cannot be negative.",
        (
            "correct|fraction|half|larger|less|more|negative|right|smaller|that|true",
            r"(?:can't|cannot|can not|couldn't|must not|never) (?:be|have|sell|buy|take|eat"
            r"|own|lose|possibly)(?: be)? ?(?:a )?(?:negative|half|fraction|more than|less"
            r" than|larger|smaller|right|correct|true|that (?:much|many|few))",
        ),
        (
            "negative|possible",
            r"(?:that's|that is|which is|is|it's) (?:impossible|not possible|negative)\b",
        ),
        ("half", r"half an? [a-z]{3,12}[,.?]"),
        ("whole", r"not a whole"),
        ("isn't", r"isn't a whole"),
        ("total|whole", r"(?:more|bigger|larger) than the (?:whole|total)"),
        (
            "integers|positive|range|valid|whole",
            r"(?:all|both) (?:are )?(?:positive|integers|whole|valid|in range)",
        ),
    ),
    _rule(
        "found_wrong",
        "That's wrong, 7 * 8 is 56.",
        (
            "correct|error|mistake|right|wrong",
            r"(?:that's|that is|this is|which is|it's|that was|is clearly|was|clearly)"
            r" (?:wrong|incorrect|not right|not correct|an error|a mistake)",
        ),
        ("can|couldn't", r"(?:can't|cannot|can not|couldn't) be(?: it| right|\.|,|!)"),
        ("made", r"made (?:a|an) <gap>(?:mistake|error|slip)"),
        ("mistake", r"my mistake"),
        ("slip", r"a slip"),
        (
            "misadded|miscalculated|miscounted|misdivided|mismultiplied|missubtracted",
            r"mis(?:calculated|added|counted|multiplied|subtracted|divided)",
        ),
        ("dropped", r"dropped (?:a |<n>)"),
    ),
    _rule(
        "should_be",
        "Wait, 7 * 8 is 56, not 54.",
        ("actually|really|should", r"(?:should be|is actually|is really) <n>"),
        ("is", r"(?:wait|hmm|no|oops|oh|on)[ ,.!:\u2014\u2013-]{1,4}\$?<n> ?<op> ?<n>\$? is <n>"),
        ("not", r"is <n>[;,] ?(?:and )?not <n>"),
    ),
    _rule(
        "unequal",
        "6 * 7 = 42 does not equal 40.",
        (
            "does|equal|isn't|not",
            r"(?:isn't|is not|doesn't (?:equal|give|make|match|reach|get)|does not (?:equal"
            r"|give|make|match|reach|get)|not equal to) (?:to |us )?(?:<n>|the (?:target"
            r"|goal)|what (?:we|i|the))",
        ),
        ("!=|=/=|\u2260", r"(?:\u2260| != |=/=) ?\$?<n>"),
    ),
    _rule(
        "recomputed",
        "Once more: 17 + 15 + 12 = 44.",
        ("more:", r"once more: ?\$?<n>"),
        (
            "again|carefully|more|once|slowly",
            r"(?:add|count|multiply|compute|calculate|work)(?:ing)? (?:it |them |that |this "
            r"|these )?(?:up |out )?(?:again|once more|one more time|slowly|carefully)\b",
        ),
        ("so", r"so \$?<n>\$? it is\b"),
    ),
)
