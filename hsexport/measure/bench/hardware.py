"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MEASURING = ("hsexport", "numpy", "onnxruntime", "torch", "diffusers", "scikit-image", "flip-evaluator")


@dataclass(frozen=True)
class Hardware:
    """The processor and how much of it was used."""

    processor: str
    cores: int
    threads: int


def hardware(threads: int) -> Hardware:
    """The machine as it is; 0 threads means all cores."""
    return Hardware(processor(), usable_cores(), threads or usable_cores())


def processor() -> str:
    """The processor's name, as far as the platform tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Python's version and those of the distributions that a measurement depends on, where installed."""
    found = {"python": platform.python_version()}
    for name in MEASURING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
