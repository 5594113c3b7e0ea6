"""What a build and its pictures will need, told from configurations and headers alone."""
