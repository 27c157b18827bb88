"""The command line: options and their help. The work is done elsewhere."""
