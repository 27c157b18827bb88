"""Rollouts: completions for prompts, with the log-probabilities they were sampled at."""
