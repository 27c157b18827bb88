"""Runs over several processes and machines: accelerate, a SLURM cluster, Amazon SageMaker.

Here are the names that the command line needs before it loads a launcher.
"""

from __future__ import annotations

from typing import Literal

Strategy = Literal["ddp", "zero2", "zero3", "fsdp2"]

# An environment variable with the path of a file. A rank writes its exit code there and ends with
# 0, because accelerate prints a traceback for any other end.
EXIT_CODE_FILE = "AHA_EXIT_CODE_FILE"
