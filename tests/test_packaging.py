"""The files beside the code say what is true of it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import aha

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_workflow_runs_what_make_runs() -> None:
    steps = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["tests"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    makefile = read("Makefile")
    recipes = re.findall(r"^(?:check|test): .*\n((?:\t.*\n)+)", makefile, re.M)
    made = [
        line.strip().replace("$(BIN)/", "") for recipe in recipes for line in recipe.split("\n")
    ]
    assert set(filter(None, made)) == set(commands[1:])
    assert read(".ci/run").split("\n")[-4:-1] == ["make clean", "make check", "make test"]


def test_versions_agree() -> None:
    assert yaml.safe_load(read("CITATION.cff"))["version"] == aha.__version__
    newest = re.search(r"^## (\S+),", read("CHANGELOG.md"), re.M)
    assert newest is not None
    assert newest[1] == aha.__version__


def test_issue_forms_are_forms() -> None:
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        found = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(found)
        assert all(part["attributes"]["label"] for part in found["body"])
