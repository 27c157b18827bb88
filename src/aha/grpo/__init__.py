"""The algorithm: advantages, losses, log-probabilities, micro-batches. No rollouts, no files."""
