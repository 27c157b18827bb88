"""Reading what a model wrote: tags, numbers, expressions, and equality of answers."""
