"""Other trainers that can run a recipe."""
