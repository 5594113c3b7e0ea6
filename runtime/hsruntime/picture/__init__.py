"""Latents to pictures, and pictures to files."""
