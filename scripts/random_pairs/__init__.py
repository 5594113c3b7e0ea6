"""Pairs of real architectures and random weights: what a check of sizes, times and memory needs of a checkpoint."""
