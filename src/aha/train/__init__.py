"""Training: the loop, the policy, the update, checkpoints."""
