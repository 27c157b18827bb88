"""Training: the loop, its schedules, checkpoints, memory."""

import sys

from aha.types import CallablePackage

# `aha.train(...)` is the Python API's function, and this package has its name.
sys.modules[__name__].__class__ = CallablePackage
