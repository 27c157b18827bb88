"""Recipes on TRL's GRPOTrainer."""
