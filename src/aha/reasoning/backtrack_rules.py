"""Rules of backtracking: an approach or a result is given up and another begun."""

from __future__ import annotations

from aha.reasoning.rules import Rule, rule_of

_rule = rule_of("backtracking")

BACKTRACKING: tuple[Rule, ...] = (
    _rule(
        "wait",
        "16 + 11 = 27 , not 13 . Wait, 16 + 9 = 25",
        (
            "wait",
            r"wait\s?[,.!\u2026\u2014\u2013:-]{1,3}(?! ?(?:is|does|do|did|was|are|can|could"
            r"|let me|let's)\b| ?\$)",
        ),
    ),
    _rule(
        "wait_bare",
        "5 * 6 = 35. No wait, 5 * 6 = 30.",
        (
            "wait",
            r"(?:but|oh|no|hmm|hm|ah),? wait\b(?! (?:for|until|in|at)\b)(?! ?[,.]{0,3}"
            r" ?(?:is|does|do|was|\$))",
        ),
        (
            "wait",
            r"wait(?<![a-z] wait)(?<!, wait) (?:no|but|that|the|i|we|it)\b"
            r"(?! (?:is|was) (?:right|correct))",
        ),
    ),
    _rule(
        "missed_and_on",
        "75 - 6 = 69, still not 72. Hmm. 6 * (25 - 3) = 132",
        ("not", r"not (?:quite )?<n><next-try>"),
        ("too", r"too (?:high|low|big|small|large|much|little|many|few)<next-try>"),
        ("overshoot", r"overshoots?<next-try>"),
        ("short|away|off|over", r"[0-9] (?:short|away|off|over)\b<next-try>"),
        ("way", r"way off<next-try>"),
        ("off", r"off by<next-try>"),
        ("short", r"short of<next-try>"),
        ("no|nope|nah", r"[0-9][.,!]? (?:no|nope|nah)\b<next-try>"),
        ("left", r"left (?:over|out)\b<next-try>"),
        ("unused", r"unused<next-try>"),
        task="countdown",
    ),
    _rule(
        "dead_end",
        "Dead end. Start over with the 25: 25 + 9 = 34.",
        ("dead", r"dead end"),
        ("nowhere", r"(?:gets?|going|leads?|goes) (?:me |us )?nowhere"),
        ("luck", r"no luck"),
        ("hopeless", r"hopeless"),
        ("stuck", r"i'm stuck"),
        ("we're", r"we're stuck"),
        ("scratch", r"scratch that"),
        ("scrap", r"scrap (?:that|this|it)"),
        ("forget", r"forget (?:that|it|this|about (?:that|the|it))"),
        ("the", r"(?:in|into|to) the (?:bin|trash)"),
        ("abandon", r"abandon"),
        ("never", r"never ?mind"),
        ("leave", r"leave (?:that|this|the) <gap>(?:idea|aside|path|plan|approach)"),
        ("undo", r"undo (?:that|this)"),
        ("drop", r"drop (?:that|this|the) (?:idea|approach|plan|attempt|<n>)"),
        ("give|giving", r"giv(?:e|ing) up on"),
        ("given", r"given up on"),
        ("that|this", r"(?:strike|scrub|skip) (?:that|this)"),
        ("cross", r"cross (?:that|this|it) out"),
        ("take", r"take (?:that|it) back"),
        ("ugh", r"ugh\b"),
        ("argh", r"argh\b"),
        ("circular", r"circular\b"),
        ("progress", r"no progress"),
        ("use", r"no use\b"),
        ("useless", r"useless"),
        ("helpful|useful", r"not (?:helpful|useful)"),
    ),
    _rule(
        "does_not_work",
        "That doesn't work, let's try 7 * 8 = 56.",
        (
            "work|help|lead|get|do|anywhere|come|divide",
            r"(?:that|this|it|which|neither|none|none of (?:these|them|those)|multiplying|adding"
            r"|subtracting|dividing|approach|way|idea|division|multiplication|addition"
            r"|subtraction) <fails-to>",
        ),
        ("n't|not", r"[0-9] <fails-to>"),
        ("fail", r"(?:that|this|which|it|approach|attempt|also) fails?\b"),
        ("good", r"no good\b"),
        ("anywhere", r"not (?:getting|going) anywhere"),
    ),
    _rule(
        "cannot_be_made",
        "5 and 7 don't make an 8. Instead aim for a 12.",
        (
            "form|get|give|made|make|produce|reach",
            r"(?:can't|cannot|don't|doesn't|won't|do not|does not|can not) (?:make|give|get"
            r"|reach|produce|form|be made)(?: (?:an?|the|me|us|it))? ?(?:<n>|either|from"
            r"|with|that)",
        ),
        ("can't", r"can't either"),
        ("way", r"no way to (?:make|get|reach)"),
        task="countdown",
    ),
    _rule(
        "try_other",
        "75 - 6 = 69. Let's try multiplication.",
        (
            "try",
            r"(?<=[a-z0-9.,;!?:)*\n\u2014\u2013-] )(?:(?:let's|let me|let us|i'll|i will|i"
            r"|we|so|now|ok|okay|then|can|could|should|we'll|next|and) ){0,2}try (?!to |this"
            r"|and (?:solve|find))(?:again|it |the |with|using|a |an |<n>|\(|instead"
            r"|something|another|different|other|subtract|add|multipl|divi|start|swap|combin"
            r"|revers|switch|[a-z]{1,9}ing\b|[a-z]{3,14}(?:tion)?\b)",
        ),
        ("attempt|try", r"(?:second|next|new|another|one more|fresh|third) (?:try|attempt)\b"),
        ("again|another|instead", r"try (?:again|instead|another)"),
        task="countdown",
    ),
    _rule(
        "try_again",
        "That is not enough. Let me try again with 12.",
        (
            "again|attempt|different|instead|other|something|try",
            r"(?:try (?:again|instead|another|something (?:else|different)|a different|it"
            r" (?:differently|again)|this (?:again|differently)|(?:the )?other)|(?:second"
            r"|next|new|another|fresh) (?:try|attempt))\b",
        ),
        (
            "try",
            r"(?<=[.!?\u2014\u2013] )(?:so |ok |okay |ok, |okay, )?(?:let's|let me|i'll|we)"
            r" (?:rather )?try (?!to |this|and )",
        ),
    ),
    _rule(
        "other_way",
        "44 overshoots the 15. Different route: 5 - 3 = 2, 13 + 2 = 15.",
        (
            "angle|approach|combination|idea|option|order|pair|path|plan|possibility|route|start|strategy|tack",
            r"(?:other|another|different|new|alternative|better|fresh) (?:idea|approach"
            r"|route|option|path|combination|possibility|order|strategy|angle|plan|start"
            r"|tack|pair)\b",
        ),
        ("another", r"another way:"),
        ("plan", r"plan b\b"),
        (
            "different|other",
            r"(?:a different|some other|the other) way(?: instead|:|,|\.| to (?:do|solve"
            r"|make|get))",
        ),
        ("alternatively", r"(?:^|[.!?\n] ?)alternatively\b(?! counting)"),
        (
            "chang|switch",
            r"(?:switch(?:ing)?|chang(?:e|ing)) (?:to|tack|course|plans?|my|the (?:plan"
            r"|approach|order))\b",
        ),
    ),
    _rule(
        "what_about",
        "Subtracting gives too little. What about multiplying: 6 * 7 = 42.",
        ("about", r"(?:what|how) about (?!the (?:rest|others?)\b)"),
        (
            "maybe|perhaps|what",
            r"(?<=[.!?,;] )(?:what if|(?:so |then )?(?:maybe|perhaps) (?:i|we|multiply"
            r"|subtract|divide|add|<n>|\(|try|use|the|start|with))",
        ),
        ("instead", r"instead\b"),
        task="countdown",
    ),
    _rule(
        "instead",
        "Induction gets long. Instead, use telescoping.",
        (
            "instead|rather",
            r"(?<=[.!?;,] )(?:so |no,? |ok,? |i'll |let's |we |let me )?(?:instead"
            r"|rather)\b(?! of\b| than\b)",
        ),
        (
            "instead",
            r"(?:let's|let me|i'll|i will|we|use|i) (?:[a-z']{1,10} ){0,4}instead\s?[.:,]",
        ),
        ("rather", r"let me rather"),
    ),
    _rule(
        "start_over",
        "I misread it, so redo the setup: 60(t - 1) = 45t.",
        ("start", r"start(?:ing)? (?:over|again|afresh|anew|from scratch|from the top|fresh)"),
        ("restart", r"restart"),
        ("back", r"back to (?:the (?:start|beginning|equation|setup|drawing)|square one|step)"),
        (
            "back|correct|fix|re-do|reconsider|redo|revise|think",
            r"(?:let me|let's|i'll|so|have to|must|to) (?:go back\b|redo\b|re-do\b|re-?think"
            r"|reconsider|revise|correct (?:that|this|it)|fix (?:that|this|it))",
        ),
        ("redo", r"redo (?:the|that|this|it)"),
        ("again|once|redo", r"(?<=[.!?] )(?:redo|again|once more)(?:ing)?:"),
        ("again", r"set (?:it|this) up again"),
    ),
    _rule(
        "slip",
        "Oh, I misread, the second car leaves one hour later.",
        ("oops", r"w?h?oops(?! right)"),
        ("bad|error|mistake", r"my (?:mistake|bad|error)"),
        (
            "dropped|forgot|ignored|made|meant|misadded|miscalculated|miscounted|misread|missed|mistook|misunderstood|mixed|overlooked|wrong",
            r"i (?:misread|misunderstood|mistook|forgot|overlooked|ignored|missed|meant"
            r"|mixed up|dropped|miscounted|misadded|miscalculated|used the wrong|made (?:a"
            r"|an)\b)",
        ),
        ("made", r"made (?:a|an) <gap>(?:mistake|error|slip)"),
        ("that|there", r"(?:there's|there is|that was) (?:a|an) (?:mistake|error|slip)"),
        ("wrong", r"i (?:took|had|read|picked|chose|multiplied by|divided by) the wrong"),
        ("dropped", r"so i dropped"),
        ("correction:", r"correction:"),
    ),
    _rule(
        "is_wrong",
        "That's not right. 12 * 9 is 108.",
        (
            "wrong|correct|right",
            r"(?:that's|that is|this is|which is|it's|that was|clearly) (?:wrong|incorrect"
            r"|not right|not correct)(?=[^\n]{0,100}[0-9])",
        ),
        (
            "can|couldn't",
            r"(?:that|this|it) (?:can't|cannot|can not|couldn't) be (?:right|correct|it\b|true)"
            r"(?=[^\n]{0,100}[0-9])",
        ),
        (
            "isn't|not",
            r"(?:that|this) (?:isn't|is not) (?:right|correct|it\b)(?=[^\n]{0,100}[0-9])",
        ),
    ),
    _rule(
        "no_but",
        "12 workers take 16 days. No - with more people it has to go faster, so 4 days.",
        (
            "no",
            r"no(?<=[.!?] no)\s?(?:[,:\u2014\u2013-]{1,2}|\.)? (?=(?:let|with|that|it|the|wait"
            r"|i|we|because|since|there|he|she|they|not|you|this|each|<n>)\b)",
        ),
        ("no,", r"[,;\u2014\u2013-] no, (?=[a-z0-9(])"),
        (
            "ah|oh",
            r"(?:oh|ah)(?<=[.!?] [oa]h)\b[,.!]? (?=(?:i|the|it|that|no|she|he|but|we|these|there"
            r"|they)\b)",
        ),
    ),
    _rule(
        "actually",
        "Profit is 40. Actually, the cost counts twice, so 20.",
        (
            "actually",
            r"(?<=[.!?\u2014\u2013,;-] )(?:oh,? |hmm,? |but |no,? |well,? )?actually\b,?"
            r" (?=no\b|that|the|it|i|we|she|he|they|not|there|<n>)",
        ),
        ("second", r"on second thoughts?\b"),
        ("hang|hold", r"(?:hold|hang) on\s?[,.!:\u2014\u2013-]"),
        ("hmm", r"hmm{1,4},? \$?<n> ?<op> ?<n> is <n>"),
    ),
    _rule(
        "corrected_number",
        "7 * 8 = 54. Hmm, 7 * 8 is 56, not 54. 56 + 6 = 62.",
        ("not", r"is <n>,? not <n>(?=[^\n]{0,80}[0-9])"),
        ("actually|really", r"is (?:actually|really) <n>"),
    ),
    _rule(
        "unwieldy",
        "I'd start with induction, but the step gets messy. Telescoping is cleaner: 1 - 1/(n+1).",
        (
            "complicated|cumbersome|long-winded|messy|tedious|ugly|unwieldy",
            r"(?:gets?|getting|is|looks|becomes|too|very) (?:too |very |really |quite "
            r"|rather )?(?:messy|ugly|tedious|cumbersome|complicated|long-winded|unwieldy)",
        ),
        ("mess", r"a mess\b"),
        ("cleaner|easier|simpler", r"(?:is|be) (?:cleaner|easier|simpler)\s?[:.,]"),
        ("general", r"not general enough"),
        ("better", r"better (?:to|use|is)\b"),
    ),
    _rule(
        "read_again",
        "Hmm, reading it again she lost 4 today. 12 + 4 = 16.",
        (
            "again|read",
            r"(?:read(?:ing)? (?:it|that|the <gap>|this) again"
            r"|re-?read(?:ing)?)(?=[^\n]{0,120}[0-9])",
        ),
    ),
)
