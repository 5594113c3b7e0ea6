"""Engines, tensors, devices and backends; knows nothing of diffusion."""

__all__: list[str] = []
