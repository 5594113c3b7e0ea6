"""FLUX.2: klein-base."""
