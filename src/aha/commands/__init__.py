"""What commands do beside training: each module is one command."""
