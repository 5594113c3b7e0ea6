"""Build time: turns a pair of diffusion transformers into a bundle of engines."""

__version__ = "0.1.0"
__all__ = ["__version__"]
