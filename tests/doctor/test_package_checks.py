from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from aha.doctor.hardware import Finding
from aha.doctor.software import DISTRIBUTION, Distribution, Find, installed, package_findings

OWN = (
    "torch<2.14,>=2.11", "transformers<6,>=5.5", "peft>=0.20", 'tomli; python_version < "3"',
    'trl<2,>=1.16; extra == "trl"', 'vllm<0.32,>=0.28; extra == "vllm"',
    'ruff>=0.14; extra == "dev"',
)  # fmt: skip
WELL = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "peft": "0.21.2"}


def environment(
    versions: Mapping[str, str], requires: Mapping[str, tuple[str, ...]] | None = None
) -> Find:
    packages = {
        name: Distribution(version, (requires or {}).get(name, ()))
        for name, version in versions.items()
    }
    packages[DISTRIBUTION] = Distribution("1", OWN, ">=3.10,<3.14")
    return packages.get


def problems(find: Find, python: str = "3.11.7") -> dict[str, Finding]:
    return {f.what: f for f in package_findings(find, python) if f.state == "problem"}


def test_all_within_their_ranges() -> None:
    findings = {f.what: f for f in package_findings(environment(WELL), "3.11.7")}
    assert {f.state for f in findings.values()} == {"ok"}
    expected = "3 of 3 within their ranges: torch 2.13.0+cpu, transformers 5.23.0, peft 0.21.2"
    assert findings["packages"].found == expected
    assert findings["extras"].found == "none; not installed: trl, vllm"


def test_a_package_outside_its_range_is_a_problem_that_may_work() -> None:
    found = problems(environment({**WELL, "torch": "2.10.0"}))["torch"]
    assert found.found == "2.10.0, outside <2.14,>=2.11"
    assert found.advice == "pip install 'torch<2.14,>=2.11'."
    assert not found.stops


def test_a_missing_package_stops() -> None:
    found = problems(environment({"torch": "2.13.0", "transformers": "5.23.0"}))
    assert set(found) == {"peft"}
    assert found["peft"].stops


def test_another_python_stops() -> None:
    assert problems(environment(WELL), "3.14.1")["Python"].stops
    assert "Python" not in problems(environment(WELL), "3.13.0")


def test_an_extra_in_another_version() -> None:
    assert problems(environment({**WELL, "trl": "1.15.0"}))["trl"].advice.endswith("[trl]'.")
    assert not problems(environment({**WELL, "trl": "1.16.0"}))
    # What only developers need is nobody else's problem.
    assert not problems(environment({**WELL, "ruff": "0.1"}))


def test_what_a_neighbour_asks_for() -> None:
    asks = {"vllm": ("torch==2.12.0", "transformers>=5", 'peft<0.1; extra == "old"', "numba==1")}
    found = problems(environment({**WELL, "vllm": "0.29.0"}, asks))["vllm"]
    assert found.found == "0.29.0 asks for torch==2.12.0, here is 2.13.0+cpu"
    # The build's name is no other version; other packages are not aha's to package_findings.
    asks = {"vllm": ("torch==2.13.0", "numba==1")}
    assert not problems(environment({**WELL, "vllm": "0.29.0"}, asks))


def test_without_metadata_there_is_nothing_to_package_findings() -> None:
    (finding,) = package_findings({}.get)
    assert finding.state == "note"


def test_ranges_are_those_of_the_installed_distribution() -> None:
    own = installed(DISTRIBUTION)
    assert own is not None
    assert list(own.requires) == metadata.requires(DISTRIBUTION)
    findings = package_findings()
    assert findings[0].what == "Python"
    assert "torch" in findings[1].found
