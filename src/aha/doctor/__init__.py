"""`aha doctor`: is this machine fit to train, does a recipe fit into its memory, and what would."""
