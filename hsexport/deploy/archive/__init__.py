"""Archives that carry a bundle, and all that runs it, to machines without a network."""
