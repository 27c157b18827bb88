"""Rules of backward_chaining: what the wanted result needs, and steps undone from the end."""

from __future__ import annotations

from aha.reasoning.rules import Rule, rule_of

_rule = rule_of("backward_chaining")

BACKWARD_CHAINING: tuple[Rule, ...] = (
    _rule(
        "backwards",
        "Working backwards from the profit: profit = revenue - cost.",
        (
            "backward",
            r"(?:work(?:ing)?|go(?:ing)?|think(?:ing)?|reason(?:ing)?|comput(?:e|ing)"
            r"|step(?:ping)?|walk(?:ing)?|solv(?:e|ing)) (?:this |it |things )?backwards?\b",
        ),
        ("backward", r"backwards?(?: from\b|[:,])"),
        ("revers", r"revers(?:e|ing) (?:the|each|every|all|it|this)"),
        ("reverse", r"in reverse\b"),
        ("from", r"from the (?:end|answer|goal|target|result|final)\b"),
        ("undo", r"undo(?:ing)? (?:the|each|every|it|them|that|<n>)"),
        ("inverse", r"inverse operation"),
        (
            "start",
            r"start(?:ing)? (?:with|at|from) (?:what (?:we|i) want|the (?:end|target|goal"
            r"|answer|result|final|last))",
        ),
        ("rewind|unwind", r"(?:unwind|rewind)(?:ing)?\b"),
    ),
    _rule(
        "to_reach",
        "To hit 31 we need 6 more than 25, which 2 and 4 must give.",
        (
            "has|have|lack|missing|must|need|require|would",
            r"(?:to|for) (?:reach|get|hit|make|have|obtain|end up (?:with|at)|end (?:at|with"
            r"|on)|arrive at|land (?:on|at)|be at|come to|break|leave) (?:to |an?"
            r" [a-z]{2,12} of |a total of |exactly |from <n> to )?(?:the )?(?:<n>|target"
            r"|total|goal)[^.\n]{0,40}?\b(?:need|must|has to|have to|requires?|would (?:need"
            r"|have)|'d need|lacks?|missing)",
        ),
    ),
    _rule(
        "must_give",
        "24 / 6 = 4, so the other numbers have to give 4.",
        (
            "must|should",
            r"(?:must|should)(?<!we must)(?<!\bi must)(?<!you must)(?<!he must)"
            r"(?<!they must) <give>",
        ),
        (
            "need|has|have|had|ought",
            r"(?:needs? to|has to|have to|had to|ought to)(?<!\bi need to)(?<!we need to)"
            r"(?<!you need to)(?<!\bi have to)(?<!we have to)(?<!you have to) <give>",
        ),
        (
            "bracket|other|remainder|remaining|rest|what",
            r"(?:rest|others?|remaining [a-z]{1,12}|what's left|what is left|remainder"
            r"|bracket|other (?:factor|two|numbers|side|part)) <must> (?:then )?be\b",
        ),
    ),
    _rule(
        "last_operation",
        "Suppose the last operation is a multiplication by 4.",
        (
            "final|last",
            r"(?:the )?(?:last|final) (?:operation|move|thing i do|calculation) (?:is|was"
            r"|must|could|would|be|has|to)",
        ),
        (
            "final|last",
            r"(?:suppose|if|say|imagine|assume) (?:the|my|that the) (?:last|final) (?:step"
            r"|operation|move)",
        ),
        (
            "addition|division|multiplication|plus|subtraction|times",
            r"end(?:s)? (?:in|with|on) (?:a |an )?(?:multiplication|addition|subtraction"
            r"|division|times|plus)",
        ),
    ),
    _rule(
        "target_taken_apart",
        "36 = 40 - 4. 40 = 8 * 5, so 8 * 5 - 4.",
        (
            "=|can|could|equals|is|would",
            r"[0-9]<alone> (?:=|is|equals|could be|can be|would be) (?:also )?<n> ?<op> ?<n>"
            r"(?! ?[-+*/=]| is| equals)",
        ),
        (
            "double|half|multiple|than|twice",
            r"<n> is (?:<n> (?:more|less) than|twice|double|half of|a multiple of)",
        ),
        ("as|because|since", r"(?:because|since|as) <n> ?<op> ?<n> (?:=|is|makes|gives) <n>"),
        task="countdown",
    ),
    _rule(
        "from_the_target",
        "Taking the 2 away from the goal 30 leaves 28.",
        ("goal|target", r"(?:from|off|out of) (?:the|my|our) (?:target|goal)\b"),
        ("goal|target", r"(?:target|goal)(?: <n>)? (?:minus|divided|over|plus|times|[-/*+])"),
        task="countdown",
    ),
    _rule(
        "so_needed",
        "24 / 6 = 4, so I need a 4 from the rest.",
        (
            "lack|looking|need|want",
            r"(?:so|then|which means|meaning|thus|hence|means) (?:i|we)(?:'d| would| will|"
            r" still)? (?:need|want|lack|am looking for|are looking for) (?:an? |to (?:get"
            r"|make|reach|find) |the )?(?:<n>|other|rest)",
        ),
        ("more", r"(?:still |need |lack )<n> more\b"),
        ("need", r"need (?:another )?<n> more"),
        ("which", r"which leaves (?:a |an )?<n> (?:for|to)"),
        ("leave", r"leaves? (?:me |us )?(?:with )?(?:an? )?<n> (?:for|to|from)\b"),
        ("remaining", r"remaining <n> (?:from|with|out of)"),
        ("lacks|needs|requires|wants", r"<n> (?:needs|wants|lacks|requires) <n>"),
        (
            "?",
            r"(?:can|could) (?:i|we|<n> and <n>|the (?:rest|others?)) (?:make|give|get|form)"
            r" (?:an? )?<n>(?: (?:from|with|out of) [^?\n]{1,20})?\?",
        ),
        ("missing", r"<n> (?:is|are) (?:still )?missing"),
        task="countdown",
    ),
    _rule(
        "what_times",
        "What times 6 gives 24?",
        (
            "what|which",
            r"(?:what|which (?:number|pair|two|value)[a-z ]{0,12}) (?:times|plus|minus"
            r"|multiplied by|divided by|added to|gives|makes|equals) <n>",
        ),
        ("what", r"[0-9] (?:times|plus|minus|divided by) what\b"),
        ("what", r"what (?:do i|must i|should i|can i) (?:add|multiply|subtract|divide)"),
    ),
    _rule(
        "condition_needed",
        "For 12 / (n - 1) to be an integer, n - 1 has to be a divisor of 12.",
        (
            "for",
            r"for [^.\n]{2,70}? to (?:be|have|divide|hold|equal|vanish"
            r"|exist)\b[^.\n]{0,70}?\b(?:must|has to|have to|needs? to|we need|i need"
            r"|requires)\b",
        ),
        ("need", r"need \$?[^.\n]{1,25} to (?:divide|be|equal|vanish|have|hold)\b"),
        ("requires", r"\$ requires"),
        ("require", r"requires? (?:that )?\$"),
        (
            "calls|needs|requires|takes",
            r"(?:that|which|this|it) (?:takes|requires|calls for|needs) (?:an? |the |two "
            r"|that )",
        ),
        (
            "enough|must|needed|required|suffices",
            r"(?:to|in order to) (?:conclude|show|prove|be|get|have|guarantee)"
            r" (?!<n>)[^.\n]{2,60}? (?:(?:is|are) (?:required|needed)|it (?:is enough"
            r"|suffices)|(?:the )?[a-z]{1,12} must)",
        ),
        ("must", r"must (?:both )?then (?:both )?be\b"),
        ("both", r"both must\b"),
        ("only", r"(?:only )?if and only if\b"),
        ("if", r"if (?:this|that|it) is to\b"),
        (
            "happens|holds|possible|true",
            r"(?:that|this|which|it) (?:happens|holds|is true|is possible) (?:exactly |only "
            r"|precisely )?(?:when|if)\b",
        ),
        ("want", r"we want [^.\n]{1,40}, (?:so|which|that)\b"),
        ("only", r"the only way (?:to|for|that)\b"),
        ("which", r"which (?:in turn )?(?:comes from|depends on)"),
    ),
    _rule(
        "average_to_total",
        "To have an average of 85 over 4 tests the sum must be 340.",
        (
            "has|have|must|need|should|would",
            r"to (?:have|get|reach|average|end|finish|pass|earn|save|make)"
            r" [^.\n]{2,60}?\b(?:sum|total|rest|last|other|fourth|third|fifth|remaining)[a-z"
            r" ]{0,15} (?:must|has to|needs? to|have to|should|would have to)\b",
        ),
    ),
    _rule(
        "undone",
        "30 left. Before lunch 30 + 15 = 45.",
        (
            "before",
            r"before (?:that|this|the [a-z]{2,12}|lunch|it|then|paying|buying|giving"
            r"|spending|eating)[^.\n0-9]{0,30}<n> [-+*/]",
        ),
        (
            "had|must|was|were",
            r"so (?:it|she|he|there|they) (?:was|had|were|must have had) <n> (?:before|this"
            r"|yesterday|in the|at (?:the )?(?:start|first))",
        ),
        ("must", r"(?:she|he|they|it|there) must have (?:had|been|started|bought)\b"),
        ("began|started", r"so (?:she|he|they) (?:started|began) with"),
    ),
)
