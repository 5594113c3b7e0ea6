"""Trains the demo pair: emoji pictures from their names, in the layout of a Stable Diffusion 3 pipeline."""
