"""A model family that nobody else in this repository knows: rotary positions, single-stream blocks, two text sides."""
