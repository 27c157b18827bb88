"""Remake a finding of docs/findings.md: `python benchmarks/findings.py NAME [NAME ...]`.

Trains the runs that are missing under --output, several seeds for each setting of findings.yaml,
then writes a line for each run to benchmarks/findings/NAME.csv and prints the table of means.
`--table` only prints the table of what was measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from scipy import stats

from aha.launch.sweep import Cell, finished, run_all
from aha.reasoning.analysis import analyse
from aha.reasoning.compare import Estimate, student
from aha.recipe import DEFAULT_RECIPE
from aha.runs import RunDirectory, usable_cores
from aha.train.checkpoint import latest_checkpoint

HERE = Path(__file__).parent
DEFINITION: dict[str, Any] = yaml.safe_load((HERE / "findings.yaml").read_text(encoding="utf-8"))
BEFORE = "before"


@dataclass(frozen=True)
class Row:
    """One model on the held-out problems; `steps` is 0 for the one before training.

    accuracy, layout, cut_off: shares of completions. tokens: a completion. tries: a completion,
    counted as the tries given up and the last one. hit: solved completions for each try. first_try:
    share solved without giving up a try. repeated: share of the tries that were written before in
    the same completion. true: share of written equations that are true. trained_tokens: in all
    rollouts. seconds: of all steps.
    """

    setting: str
    seed: int
    steps: int
    accuracy: float
    tokens: float
    layout: float
    cut_off: float
    tries: float
    hit: float
    first_try: float
    repeated: float
    true: float
    trained_tokens: int
    seconds: float
    machine: str
    date: str


def cells(
    names: Sequence[str], seeds: Sequence[int], output: Path, overrides: Sequence[str] = ()
) -> list[Cell]:
    """The runs of some settings, seed by seed; a second phase needs its first one done."""
    found = []
    for seed in seeds:
        for name in names:
            setting = DEFINITION["settings"][name]
            changes = [*overrides, *setting.get("set", ()), f"train.seed={seed}"]
            if "after" in setting:
                first = folder(output, setting["after"], seed) / "checkpoints"
                changes.append(f"model.name={latest_checkpoint(first)}")
            found.append(Cell(name, seed, tuple(changes), folder(output, name, seed)))
    return found


def folder(output: Path, setting: str, seed: int) -> Path:
    return output / "runs" / f"{setting}-seed-{seed}"


def rows_of(cell: Cell) -> Iterator[Row]:
    """The models before and after a run, measured on its held-out completions."""
    run = RunDirectory.open(cell.folder)
    metrics, environment = run.metrics(), run.environment()
    machine = environment.get("gpu") or environment.get("processor") or platform.processor()
    for when, setting in (("before", BEFORE), ("after", cell.setting)):
        figures, after = run.evaluation()[when], when == "after"
        yield Row(
            setting, cell.seed, len(metrics) if after else 0,
            figures["accuracy"], round(figures["mean_length"], 2), figures["format_rate"],
            figures["truncated_rate"],
            **search(cell.folder / f"eval-{when}.jsonl"),
            trained_tokens=sum(record["tokens"] for record in metrics) if after else 0,
            seconds=round(sum(record["time/step_s"] for record in metrics), 1) if after else 0.0,
            machine=str(machine), date=environment["started"][:10],
        )  # fmt: skip


def search(completions: Path) -> dict[str, float]:
    """How the completions of an evaluation search: tries, hits, repeats, true equations."""
    tries, solved, first, repeated, true = 0, 0, 0, 0, list[bool]()
    lines = completions.read_text(encoding="utf-8").splitlines()
    for line in lines:
        record = json.loads(line)
        found = analyse(record["completion"], "countdown", record["correct"])
        given_up = sum(passage.behaviour == "backtracking" for passage in found.passages)
        tries += given_up + 1
        solved += record["correct"]
        first += record["correct"] and given_up == 0
        true += [step.true for step in found.steps]
        written = record["completion"].split("</think>")[0].split("Wait,")
        written = ["".join(one.split(", not")[0].split(", yes")[0].split()) for one in written]
        repeated += len(written) - len(set(written))
    return {
        "tries": round(tries / len(lines), 3), "hit": round(solved / tries, 4),
        "first_try": first / len(lines), "repeated": round(repeated / tries, 4),
        "true": round(fmean(true), 4) if true else 0.0,
    }  # fmt: skip


def table(rows: Sequence[Row], first: str) -> str:
    """Means over seeds with 95 % intervals; differences from `first` are paired by seed."""
    lines = [
        "| setting | seeds | solved | difference | tokens | difference | tries | hit a try "
        "| first try | repeated | cut off |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = {row.seed: row for row in rows if row.setting == first}
    for setting in dict.fromkeys(row.setting for row in rows):
        members = [row for row in rows if row.setting == setting]
        pairs = [(row, base[row.seed]) for row in members if row.seed in base]
        points = tokens = ""
        if setting not in (first, BEFORE) and len(pairs) > 1:
            points = difference([100 * (one.accuracy - two.accuracy) for one, two in pairs])
            tokens = difference([100 * (one.tokens / two.tokens - 1) for one, two in pairs], " %")
        solved = student([100 * row.accuracy for row in members])
        means = [
            fmean(getattr(row, name) for row in members)
            for name in ("tokens", "tries", "hit", "first_try", "repeated", "cut_off")
        ]
        lines.append(
            f"| {setting} | {len(members)} | {solved.value:.1f} %{between(solved)} | {points} "
            f"| {means[0]:.0f} | {tokens} | {means[1]:.1f} | {means[2]:.1%} | {means[3]:.1%} "
            f"| {means[4]:.0%} | {means[5]:.0%} |"
        )
    return "\n".join(lines)


def difference(values: Sequence[float], unit: str = "") -> str:
    found = student(values)
    p = stats.ttest_1samp(values, 0.0).pvalue if len(set(values)) > 1 else 1.0
    return f"{found.value:+.1f}{unit}{between(found, '+')}, p = {p:.2g}"


def between(found: Estimate, sign: str = "") -> str:
    return f" ({found.low:{sign}.1f} to {found.high:{sign}.1f})" if found.n > 1 else ""


def read(file: Path) -> list[Row]:
    """The rows of a finding's CSV."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            Row(**{
                field.name: {"str": str, "int": int, "float": float}[str(field.type)](
                    line[field.name]
                )
                for field in fields(Row)
            })
            for line in csv.DictReader(lines)
        ]  # fmt: skip


def write(file: Path, rows: Sequence[Row]) -> None:
    file.parent.mkdir(exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=list(DEFINITION["findings"]), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=max(1, usable_cores() // 2))
    parser.add_argument("--output", type=Path, default=Path("runs/findings"))
    parser.add_argument("--csv", type=Path, default=HERE / "findings")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--table", action="store_true", help="Only print what was measured.")
    parser.add_argument("--collect", action="store_true", help="Train nothing; take what is done.")
    arguments = parser.parse_args()
    for name in arguments.names:
        names = DEFINITION["findings"][name]["settings"]
        file = arguments.csv / f"{name}.csv"
        if not arguments.table:
            everything = train(names, arguments)
            rows = [row for cell in everything if finished(cell.folder) for row in rows_of(cell)]
            # The model before training is the same for every setting.
            seen = {(row.setting, row.seed): row for row in reversed(rows)}
            order = [BEFORE, *names]
            write(file, sorted(seen.values(), key=lambda r: (order.index(r.setting), r.seed)))
        print(f"\n{name}\n\n{table(read(file), names[0])}")


def train(names: Sequence[str], arguments: argparse.Namespace) -> list[Cell]:
    """All runs of the settings; those that are missing are trained, first phases first."""
    settings, everything = DEFINITION["settings"], list[Cell]()
    before = [settings[name]["after"] for name in names if "after" in settings[name]]
    later = [name for name in names if "after" in settings[name]]
    for phase in (list(dict.fromkeys(before)), [n for n in names if n not in later], later):
        found = cells(phase, range(arguments.seeds), arguments.output, arguments.overrides)
        if not arguments.collect:
            waiting = [cell for cell in found if not finished(cell.folder)]
            failed = run_all(waiting, DEFAULT_RECIPE, arguments.jobs, lambda: None, print)
            if failed:
                raise SystemExit(f"{len(failed)} runs failed, the first with: {failed[0]}")
        everything += [cell for cell in found if cell.setting in names]
    return everything


if __name__ == "__main__":
    main()
