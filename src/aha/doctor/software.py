"""Installed packages against declared ranges, and the model hub.

The ranges are those of the installed distributions' metadata: aha's own, and those of the
libraries that ask for the same packages (TRL, vLLM, peft ...). A token is only looked for: no
part of it reaches a finding.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from aha.doctor.hardware import Finding, note, ok, problem

DISTRIBUTION = "aha-zero"
# Libraries that declare ranges for the packages that a run uses.
_NEIGHBOURS = ("transformers", "trl", "vllm", "peft", "bitsandbytes", "accelerate")
_NAMED = ("torch", "transformers", "peft")
_SECONDS = 4.0
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True)
class Distribution:
    """An installed package: its version, what it requires, and the Pythons it allows."""

    version: str
    requires: tuple[str, ...]
    python: str = ""


Find = Callable[[str], Distribution | None]


def installed(name: str) -> Distribution | None:
    """A package of this environment by its name, none if it is not installed."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    python = found.metadata["Requires-Python"] or ""
    return Distribution(found.version, tuple(found.requires or ()), python)


def package_findings(find: Find = installed, python: str | None = None) -> list[Finding]:
    """Python, aha's own packages, its extras, and the ranges that other libraries declare."""
    own = find(DISTRIBUTION)
    if own is None:
        advice = "Install it (pip install -e .): its metadata says which packages it needs."
        return [note("packages", f"{DISTRIBUTION} is not installed", advice)]
    version = python or default_environment()["python_full_version"]
    findings = [ok("Python", f"{version}, within {own.python}")]
    if not SpecifierSet(own.python).contains(version, prereleases=True):
        advice = f"Make the environment again with a Python {own.python}."
        findings = [problem("Python", f"{version}, outside {own.python}", advice, stops=True)]

    declared = [Requirement(text) for text in own.requires]
    needed = [x for x in declared if _applies(x)]
    faults, named = [], []
    for x in needed:
        found, mismatch = find(x.name), _mismatch(x, find)
        if x.name in _NAMED:
            named.append(f"{x.name} {found.version}" if found else x.name)
        if mismatch:
            advice = f"pip install '{x.name}{x.specifier}'."
            faults.append(problem(x.name, mismatch, advice, stops=found is None))
    shown = ", ".join(named)
    count = f"{len(needed) - len(faults)} of {len(needed)} within their ranges: {shown}"
    findings += [note("packages", count) if faults else ok("packages", count), *faults]
    findings += _extras(declared, find)
    return findings + _neighbours({x.name for x in declared}, find)


def _extras(declared: list[Requirement], find: Find) -> list[Finding]:
    """A line for the optional packages that are installed, one for each in another version."""
    there: list[str] = []
    absent: dict[str, None] = {}
    faults: list[Finding] = []
    for x in declared:
        for extra in re.findall(r'extra == "([^"]+)"', str(x.marker)):
            if extra == "dev" or _applies(x) or not _applies(x, extra):
                continue
            found, mismatch = find(x.name), _mismatch(x, find)
            if found is None:
                absent[extra] = None
            elif mismatch:
                faults.append(problem(x.name, mismatch, f"pip install '{DISTRIBUTION}[{extra}]'."))
            else:
                there.append(f"{x.name} {found.version}")
    missing = f"; not installed: {', '.join(absent)}" if absent else ""
    return [ok("extras", (", ".join(there) or "none") + missing), *faults]


def _neighbours(shared: set[str], find: Find) -> list[Finding]:
    """Ranges that other installed packages declare for the packages that aha uses too."""
    agreed: list[str] = []
    faults: list[Finding] = []
    for name in _NEIGHBOURS:
        neighbour = find(name)
        if neighbour is None:
            continue
        asked = [x for x in map(Requirement, neighbour.requires) if _applies(x)]
        broken = [x for x in asked if x.name in shared and _mismatch(x, find)]
        if not broken:
            agreed.append(f"{name} {neighbour.version}")
        for x in broken:
            found = find(x.name)
            here = found.version if found else "none"
            text = f"{neighbour.version} asks for {x.name}{x.specifier}, here is {here}"
            advice = f"pip install {name} '{x.name}{x.specifier}', or do without {name}."
            faults.append(problem(name, text, advice))
    return [ok("agreement", f"the ranges of these are met: {', '.join(agreed)}"), *faults]


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _mismatch(requirement: Requirement, find: Find) -> str | None:
    """The installed version and the range it misses; none if the requirement is met."""
    found = find(requirement.name)
    if found is None:
        return "not installed"
    # A local build such as 2.13.0+cpu is that version; a pre-release is what was installed.
    public = Version(found.version).public
    if requirement.specifier.contains(public, prereleases=True):
        return None
    return f"{found.version}, outside {requirement.specifier}"


@dataclass(frozen=True)
class Hub:
    """The model hub as seen from here.

    `token`: the place of a token, empty for none. `offline`: why the hub was not asked, empty if
    it was. `fault`: why it did not answer, empty if it did.
    """

    host: str
    token: str
    offline: str = ""
    fault: str = ""

    @property
    def reachable(self) -> bool:
        return not self.offline and not self.fault


def look_at_hub(offline: bool) -> Hub:
    """One request of at most a few seconds, without the token; none when `offline`."""
    # Only the host: an address may hold a name and a password.
    host = urlsplit(constants.ENDPOINT).hostname or "the hub"
    reason = "--offline" if offline else "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    token = next((name for name in _TOKEN_VARIABLES if os.environ.get(name, "").strip()), "")
    try:
        file = Path(constants.HF_TOKEN_PATH)
        if not token and file.is_file() and file.stat().st_size > 0:
            token = "token file"  # noqa: S105
    except OSError:
        pass
    return Hub(host, token, reason, "" if reason else _fault(constants.ENDPOINT))


def hub_findings(hub: Hub) -> list[Finding]:
    """The token and the network."""
    token = f"there is one ({hub.token})" if hub.token else "none; public models need none"
    without = "The embedded model, folders and the hub's cache work without a network."
    if hub.offline:
        network = note("network", f"not asked: {hub.offline}", without)
    elif hub.fault:
        network = note("network", f"{hub.host} does not answer: {hub.fault}", without)
    else:
        network = ok("network", f"{hub.host} answers")
    return [ok("hub token", token), network]


def _fault(endpoint: str) -> str:
    """Why the hub does not answer, empty if it does."""
    if not endpoint.startswith(("https://", "http://")):
        return "HF_ENDPOINT is no web address"
    result = f"no answer within {_SECONDS:g} s"

    def ask() -> None:
        nonlocal result
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
                result = ""
        except urllib.error.HTTPError as error:
            # Any status is an answer, unless it comes from a proxy that refuses.
            refused = error.code in (403, 407) or error.code >= 500
            result = f"status {error.code}" if refused else ""
        except (OSError, ValueError) as error:
            # Not its text: it may hold the address, and that a password.
            reason = getattr(error, "reason", error)
            unknown = isinstance(reason, socket.gaierror)
            result = "its name is not known here" if unknown else type(reason).__name__

    # In a thread: looking up a name has no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS + 1)
    return result
