"""Installed packages against the ranges that packages themselves declare.

The ranges are those of the installed distributions' metadata: aha's own, and those of the
libraries beside it that pin the same packages (TRL, vLLM, peft ...). No list is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from aha.doctor.finding import Finding, note, ok, problem

DISTRIBUTION = "aha-zero"
# What has ranges of its own for the packages that a run stands on.
_NEIGHBOURS = ("transformers", "trl", "vllm", "peft", "bitsandbytes", "accelerate")
_NOT_FOR_USERS = ("dev",)
_NAMED = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Distribution:
    """An installed package: its version, what it requires, and of which Python."""

    version: str
    requires: tuple[str, ...]
    python: str = ""


Find = Callable[[str], Distribution | None]


def installed(name: str) -> Distribution | None:
    """A package of this environment by its name, none when it is not there."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    python = found.metadata["Requires-Python"] or ""
    return Distribution(found.version, tuple(found.requires or ()), python)


def judge(find: Find = installed, python: str | None = None) -> list[Finding]:
    """Python, aha's own packages, its extras, and what its neighbours ask of the same ones."""
    own = find(DISTRIBUTION)
    if own is None:
        advice = "Install it (pip install -e .): its metadata say what it needs."
        return [note("packages", f"{DISTRIBUTION} is not installed", advice)]
    needed = [Requirement(text) for text in own.requires]
    return [
        _python(own, python or default_environment()["python_full_version"]),
        *_required([x for x in needed if _applies(x)], find),
        *_extras(needed, find),
        *_neighbours({x.name for x in needed}, find),
    ]


def _python(own: Distribution, version: str) -> Finding:
    if SpecifierSet(own.python).contains(version, prereleases=True):
        return ok("Python", f"{version}, within {own.python}")
    advice = f"Make the environment again with a Python {own.python}."
    return problem("Python", f"{version}, outside {own.python}", advice, stops=True)


def _required(needed: Sequence[Requirement], find: Find) -> list[Finding]:
    faults = [fault for fault in (_fault(x, find) for x in needed) if fault is not None]
    within = len(needed) - len(faults)
    shown = [f"{x.name} {_version(x.name, find)}" for x in needed if x.name in _NAMED]
    found = f"{within} of {len(needed)} within their ranges: {', '.join(shown)}"
    summary = ok("packages", found) if not faults else note("packages", found)
    return [summary, *faults]


def _fault(requirement: Requirement, find: Find) -> Finding | None:
    found = find(requirement.name)
    if found is not None and _within(requirement, found.version):
        return None
    had = "not installed" if found is None else f"{found.version}, outside {requirement.specifier}"
    advice = f"pip install '{requirement.name}{requirement.specifier}'."
    return problem(requirement.name, had, advice, stops=found is None)


def _extras(needed: Sequence[Requirement], find: Find) -> list[Finding]:
    """One line on what is there, one for each that is there in another version."""
    there, absent, faults = [], [], []
    for name, requirement in _by_extra(needed):
        found = find(requirement.name)
        if found is None:
            absent.append(name)
        elif _within(requirement, found.version):
            there.append(f"{requirement.name} {found.version}")
        else:
            had = f"{found.version}, outside {requirement.specifier}"
            advice = f"pip install '{DISTRIBUTION}[{name}]'."
            faults.append(problem(requirement.name, had, advice))
    found_text = ", ".join(there) or "none"
    missing = f"; not installed: {', '.join(dict.fromkeys(absent))}" if absent else ""
    return [ok("extras", found_text + missing), *faults]


def _by_extra(needed: Sequence[Requirement]) -> list[tuple[str, Requirement]]:
    extras = dict.fromkeys(
        name
        for requirement in needed
        if requirement.marker is not None and not _applies(requirement)
        for name in _extra_names(requirement)
        if name not in _NOT_FOR_USERS
    )
    return [(name, x) for name in extras for x in needed if _only_with(x, name)]


def _extra_names(requirement: Requirement) -> list[str]:
    """The extras that a marker names: `extra == "trl"`."""
    words = str(requirement.marker).replace("(", " ").replace(")", " ").split()
    places = [index for index, word in enumerate(words) if word == "extra"]
    return [words[index + 2].strip("\"'") for index in places if index + 2 < len(words)]


def _only_with(requirement: Requirement, extra: str) -> bool:
    return not _applies(requirement) and _applies(requirement, extra)


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _neighbours(shared: set[str], find: Find) -> list[Finding]:
    """Ranges that other installed packages declare for the packages that aha uses too."""
    faults: list[Finding] = []
    agreed = []
    for name in _NEIGHBOURS:
        neighbour = find(name)
        if neighbour is None:
            continue
        asked = [x for x in map(Requirement, neighbour.requires) if _applies(x)]
        broken = [x for x in asked if x.name in shared and _fault(x, find) is not None]
        agreed += [] if broken else [f"{name} {neighbour.version}"]
        faults += [
            problem(
                name,
                f"{neighbour.version} asks for {x.name}{x.specifier}, here is "
                f"{_version(x.name, find) or 'none'}",
                f"pip install {name} '{x.name}{x.specifier}', or do without {name}.",
            )
            for x in broken
        ]
    return [ok("agreement", f"what these ask for is there: {', '.join(agreed)}"), *faults]


def _version(name: str, find: Find) -> str:
    found = find(name)
    return found.version if found else ""


def _within(requirement: Requirement, version: str) -> bool:
    # A local build such as 2.13.0+cpu is that version; a pre-release is what was installed.
    public = Version(version).public
    return requirement.specifier.contains(public, prereleases=True)
