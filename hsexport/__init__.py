"""Build time: turns a pair of diffusion transformers into a bundle of engines."""

import os

__version__ = "0.1.0"
__all__ = ["__version__"]

# What libraries would send home, off before any of them is imported; a user's own choice is kept.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
