"""The one door to CUDA: every call of the runtime API goes through here and is checked."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from cuda.bindings import runtime as cudart

from hsengines.errors import DeviceError

NO_MEMORY = "cudaErrorMemoryAllocation"


class CudaError(DeviceError):
    """A call that failed; `code` is CUDA's name of the error."""

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


def call(name: str, *arguments: Any, doing: str) -> Any:
    """What the runtime's function `name` returns besides its error: None, one value, or a tuple.

    `doing` completes "CUDA failed while ...". Raises CudaError with CUDA's own name and words for the error, which may
    belong to work that was enqueued long before.
    """
    error, *values = getattr(cudart, name)(*arguments)
    if error:
        # Left behind, the error would be taken for its own by the next library that asks after a kernel's launch.
        cudart.cudaGetLastError()
        code, words = (getattr(cudart, each)(error)[1].decode() for each in ("cudaGetErrorName", "cudaGetErrorString"))
        raise CudaError(f"CUDA failed while {doing}: {code} ({words}) from {name}", code=code)
    return values[0] if len(values) == 1 else tuple(values) or None


def call_quietly(name: str, *arguments: Any) -> None:
    """Calls and forgets: for releasing things, which fails once a device has failed, with nothing left to be done."""
    # At the interpreter's end parts of the binding are gone already and raise what they like.
    with suppress(Exception):
        getattr(cudart, name)(*arguments)
