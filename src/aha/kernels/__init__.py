"""Compiled versions of a block's small operations, for rollouts and training on a CPU."""
