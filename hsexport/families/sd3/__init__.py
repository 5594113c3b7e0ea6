"""The SD3 family's transformer (MMDiT), token by token."""
