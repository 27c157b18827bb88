"""Evaluation: accuracy on held-out problems, with its uncertainty."""
