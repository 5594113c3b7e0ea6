"""Distances that a network sees: its graph with its licence, and what runs it on the CPU; never torch."""
