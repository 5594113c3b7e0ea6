"""Which backend and precision are the fastest on this CPU, of those that are installed; docs/cpu.md has the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hsengines.backend import get_backend
from hsengines.cores import CPUINFO, cpu_flags
from hsengines.errors import BackendUnavailable
from hsengines.traits import BACKENDS, DEFAULT_BACKEND, traits_of

CPU = "cpu"
"""What may be asked for in place of a backend's name."""
AUTO = "auto"
"""And in place of a precision."""
NARROW = "bf16"


class Choice(NamedTuple):
    """A backend, a precision, and why these."""

    backend: str
    precision: str
    why: str


def fastest_on_cpu(file: Path = CPUINFO) -> Choice:
    """For this machine. Raises BackendUnavailable where no backend for CPUs is installed."""
    flag = built_for_bf16(file)
    if flag:
        for name, traits in BACKENDS.items():
            if traits.offered and traits.on_cpu and NARROW in traits.precisions and _is_installed(name):
                return Choice(name, NARROW, f"this CPU is built for bf16 ({flag}), and in bf16 it is the fastest")
    get_backend(DEFAULT_BACKEND)
    if flag:
        return Choice(DEFAULT_BACKEND, "fp32", f"no backend is installed that has bf16, which this CPU has ({flag})")
    return Choice(DEFAULT_BACKEND, "fp32", "this CPU is not built for bf16, and in fp32 it is the fastest")


def fastest_precision(backend: str, file: Path = CPUINFO) -> str:
    """Of a backend: bf16 on a CPU only where that is built for it, and otherwise what the backend has first."""
    traits = traits_of(backend)
    return NARROW if traits.on_cpu and NARROW in traits.precisions and built_for_bf16(file) else traits.precisions[0]


def built_for_bf16(file: Path = CPUINFO) -> str:
    """The CPU's flag for bf16 where that makes it faster, or nothing.

    Intel's processors are with AMX alone: their avx512_bf16 took 1.4 times as long as fp32. AMD's are from Zen 4 on.
    """
    vendor, flags = cpu_flags(file)
    wanted = ["amx_bf16", *(["avx512_bf16"] if vendor == "AuthenticAMD" else [])]
    return next((flag for flag in wanted if flag in flags), "")


def _is_installed(name: str) -> bool:
    try:
        get_backend(name)
    except BackendUnavailable:
        return False
    return True
