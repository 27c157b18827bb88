"""`aha bench`: the native engine beside TRL's on the same work, measured in turn."""
