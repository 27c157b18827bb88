"""The same recipe on TRL's GRPOTrainer, over any number of processes."""
