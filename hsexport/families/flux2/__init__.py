"""FLUX.2: klein and klein-base."""
