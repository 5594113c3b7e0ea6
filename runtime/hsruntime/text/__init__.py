"""Prompts to what the transformers are conditioned on."""
