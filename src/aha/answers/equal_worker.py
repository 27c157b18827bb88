"""The worker process of `aha.answers.equal`: a JSON line in, a JSON line out, for each pair.

It is a program of its own (`python -m aha.answers.equal_worker`), not a fork or a spawned copy: the
caller may have threads, and its main script need not be importable.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

_MEMORY_BYTES = 4 * 2**30


def compare(gold: str, answer: str) -> str:
    """math-verify's result as an Outcome, without its own timeouts, which use signals.

    The whole text is read as LaTeX, since its other readings pick a number out of prose (`not 72`).
    """
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    options: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None}
    try:
        parsed_gold = parse(f"${gold}$", config, **options)
        if not parsed_gold:
            return "no_gold"
        parsed_answer = parse(f"${answer}$", config, **options)
        if not parsed_answer:
            return "different"
        # `x < 3` may be the answer where an interval is asked for.
        options = {"allow_set_relation_comp": True, "timeout_seconds": None}
        return "equal" if verify(parsed_gold, parsed_answer, **options) else "different"
    except Exception:  # sympy raises anything on hostile text; the process is expendable
        return "different"


def main() -> None:
    """Write a first line when the imports are done, then answer until standard input closes."""
    if sys.platform == "linux":  # other systems do not bound the address space
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    # Text that libraries print must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(compare("1", "1")), file=answers, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        print(json.dumps(compare(gold, answer)), file=answers, flush=True)


if __name__ == "__main__":
    main()
