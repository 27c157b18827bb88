"""Analysis of what a model wrote: does it reflect, check, correct itself."""
