"""Tiny pipelines to break."""

from pair_fixtures import edit, edit_weights, large, small, tiny, tiny_whole, whole

__all__ = ["edit", "edit_weights", "large", "small", "tiny", "tiny_whole", "whole"]
