"""The algorithm: advantages, losses, log-probabilities, microbatches. No rollouts, no files."""
