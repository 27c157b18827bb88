"""Llama-like blocks computed on the policy's own weights: what rollouts and training share."""
