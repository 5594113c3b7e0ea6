"""What a measurement ran on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hsengines.cores import usable_cores

MEASURING = ("hsexport", "numpy", "onnxruntime", "torch", "diffusers", "scikit-image", "flip-evaluator")


@dataclass(frozen=True)
class Hardware:
    """The processor and how much of it was used."""

    processor: str
    cores: int
    threads: int


def hardware(threads: int = 0) -> Hardware:
    """The machine as it is; 0 threads means all cores."""
    return Hardware(processor(), usable_cores(), threads or usable_cores())


def processor() -> str:
    """The processor's name, as far as the platform tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def versions() -> dict[str, str]:
    """Python's version and those of the distributions that a measurement depends on, where installed."""
    found = {"python": platform.python_version()}
    for name in MEASURING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpu_facts() -> dict[str, Any]:
    """Name, compute capability (89 for 8.9), memory and the CUDA release of the driver; empty without a GPU."""
    try:
        from hsengines.cuda.api import call
        from hsengines.cuda.device import why_no_cuda
    except ImportError:
        return {}
    if why_no_cuda():
        return {}
    gpu = call("cudaGetDeviceProperties", 0, doing="asking what the GPU is")
    driver = call("cudaDriverGetVersion", doing="asking for the driver's version")
    return {
        "gpu": gpu.name.partition(b"\0")[0].decode(),
        "compute_capability": 10 * int(gpu.major) + int(gpu.minor),
        "gpu_memory_gib": round(gpu.totalGlobalMem / 2**30, 1),
        "driver_cuda": f"{driver // 1000}.{driver % 1000 // 10}",
    }
