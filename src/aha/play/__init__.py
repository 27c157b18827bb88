"""`aha play`: a model and the one it began from, side by side on one problem."""
