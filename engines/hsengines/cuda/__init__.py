"""CUDA without torch: a device of one stream, its memory and its graphs."""
