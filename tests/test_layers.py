"""Imports point downward only, and the light layers stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment

SOURCE = Path(__file__).parents[1] / "src" / "aha"

# A layer may import from its own level and below; `rollout` and `grpo` not from each other.
LEVELS = {
    "types": 0,
    "visible": 0,
    "sections": 1,
    "controls": 1,
    "answers": 1,
    "recipe": 2,
    "tasks": 2,
    "rewards": 2,
    "reasoning": 2,
    "runs": 2,
    "expected": 2,
    "options": 2,
    "model": 3,
    "tiny": 3,
    "rollout": 3,
    "grpo": 3,
    "observe": 3,
    "evaluate": 4,
    "report": 4,
    "train": 5,
    "trl": 6,
    "bench": 6,
    "trained": 6,
    "launch": 6,
    "doctor": 6,
    "play": 6,
    "api": 7,
    "cli": 8,
}
WITHOUT_TORCH = (
    "types", "visible", "sections", "controls", "recipe", "answers", "tasks", "rewards",
    "reasoning", "runs", "expected", "report",
)  # fmt: skip
HEAVY = {"torch", "transformers", "tokenizers", "datasets"}


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


MODULES = [p for p in sorted(SOURCE.rglob("*.py")) if p.parent != SOURCE or p.stem != "__init__"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downward(path: Path) -> None:
    layer = layer_of(path)
    for name in imported(path):
        if not name.startswith("aha."):
            continue
        other = name.split(".")[1]
        assert LEVELS[other] <= LEVELS[layer], f"{layer} imports {other}"
        assert {layer, other} != {"rollout", "grpo"}


@pytest.mark.parametrize("layer", WITHOUT_TORCH)
def test_light_layers_import_without_torch(layer: str) -> None:
    modules = [
        ".".join(("aha", *p.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for p in MODULES
        if layer_of(p) == layer
    ]
    code = f"import {', '.join(modules)}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_and_functions_stay_short() -> None:
    long_modules, long_functions = [], []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            long_modules.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if length > 80:
                    long_functions.append(f"{path.name}:{node.name} ({length})")
    assert not long_modules
    assert not long_functions


@pytest.mark.parametrize(
    "file",
    [x for x in sorted(SOURCE.rglob("*")) if x.suffix in (".yaml", ".j2")],
    ids=lambda file: str(file.relative_to(SOURCE)),
)
def test_every_data_file_and_template_can_be_read(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        assert yaml.safe_load(text)
    else:
        Environment(autoescape=True).parse(text)
