"""What a session takes of its device's memory."""

from __future__ import annotations

from hsengines.device import Device
from hsexport.measure.gpu_check.results import Memory

MIB = 2**20


def gpu_used_bytes(device: Device) -> int | None:
    """What the GPU's memory holds, whoever put it there; None on a CPU."""
    free, total = (getattr(device, name, None) for name in ("free_bytes", "total_bytes"))
    return None if free is None or total is None else total - free


def memory_of(device: Device, used_before: int | None) -> Memory:
    """At the end of a session's work: memory that CUDA and ONNX Runtime took once, they keep."""
    used, total = gpu_used_bytes(device), getattr(device, "total_bytes", None)
    return Memory(
        device=device.name,
        total_mb=None if total is None else total / MIB,
        used_mb=None if used is None or used_before is None else (used - used_before) / MIB,
        tensors_mb=getattr(device, "peak_bytes", device.allocated_bytes) / MIB,
    )
