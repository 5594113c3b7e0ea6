"""What this machine has: processor, GPU, and the backends that work on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from hsengines.backend import get_backend
from hsengines.errors import BackendUnavailable
from hsengines.traits import backend_names, traits_of
from hsexport.measure.gpu_check.results import BackendState
from hsexport.measure.machine import gpu_facts, hardware

GPU_BACKENDS = tuple(name for name in backend_names() if not traits_of(name).on_cpu)


def backend_states(names: Iterable[str]) -> list[BackendState]:
    """Whether each backend works here; its library's own words where it does not."""
    return [backend_state(name) for name in names]


def backend_state(name: str) -> BackendState:
    """One backend's."""
    try:
        backend = get_backend(name)
    except BackendUnavailable as err:
        return BackendState(name, "", str(err))
    return BackendState(name, backend.version(), backend.why_not_here())


def machine_facts(threads: int) -> dict[str, Any]:
    """Processor and, where CUDA has one, the GPU with its driver."""
    return asdict(hardware(threads)) | gpu_facts()
