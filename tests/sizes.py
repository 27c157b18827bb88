"""One line of the size of src/aha: `make check` prints it, so that growth is seen.

For each package: lines of Python / modules / functions; then the total.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "aha"


def sizes() -> dict[str, tuple[int, int, int]]:
    """Lines, modules and functions by package; modules beside the packages are in "aha"."""
    lines, modules, functions = Counter[str](), Counter[str](), Counter[str]()
    for path in sorted(SOURCE.rglob("*.py")):
        first = path.relative_to(SOURCE).parts[0]
        package = "aha" if first.endswith(".py") else first
        text = path.read_text(encoding="utf-8")
        lines[package] += text.count("\n")
        modules[package] += 1
        functions[package] += sum(
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for node in ast.walk(ast.parse(text))
        )
    return {name: (lines[name], modules[name], functions[name]) for name in sorted(lines)}


def main() -> None:
    found = sizes()
    parts = [f"{name} {'/'.join(map(str, counts))}" for name, counts in found.items()]
    total = [sum(counts[place] for counts in found.values()) for place in range(3)]
    print(f"lines/modules/functions: {', '.join(parts)}; total {'/'.join(map(str, total))}")


if __name__ == "__main__":
    main()
