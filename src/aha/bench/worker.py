"""One side in a process of its own: a line on standard input is a step, a line back its times."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import torch

from aha.bench.spec import Spec, StepTimes

# TRL prints as well; only lines that begin so are for the benchmark.
MARK = "@aha-bench "


def _report(times: StepTimes) -> None:
    print(MARK + json.dumps(asdict(times)), flush=True)


def _wait() -> bool:
    print(MARK + "ready", flush=True)
    return bool(sys.stdin.readline().strip())


def main() -> None:
    spec = Spec.from_json(sys.argv[1])
    torch.set_num_threads(spec.threads)
    if spec.side != "native":
        from aha.bench import trl_side

        trl_side.run(spec, _wait, _report)
        return
    from aha.bench.native_side import NativeSide

    side, number = NativeSide(spec), 0
    while _wait():
        number += 1
        _report(side.step(number))


if __name__ == "__main__":
    main()
