"""Device memory: an account of it, tensors over it, and the block that engines work in."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from hsengines.cuda import api
from hsengines.cuda.api import NO_MEMORY, CudaError, call
from hsengines.cuda.release import Releases
from hsengines.device import Tensor
from hsengines.errors import DeviceMemoryError, ShapeError
from hsengines.spec import numpy_dtype

ALIGNMENT = 256
"""Bytes: what cudaMalloc grants, and what engines expect of their scratch."""


class Heap:
    """Allocates and keeps the account. Memory is cudaMalloc's: every GPU has it, and it outlives no owner."""

    def __init__(self, releases: Releases) -> None:
        self.allocated_bytes = 0
        self.peak_bytes = 0
        self._releases = releases

    def allocate(self, owner: object, count: int) -> int:
        """The address of `count` bytes, never null, that live as long as `owner`. Raises DeviceMemoryError."""
        # An empty tensor has an address too: engines refuse null.
        size = max(count, 1)
        try:
            address = int(call("cudaMalloc", size, doing=f"allocating {gib(size)}"))
        except CudaError as err:
            if err.code != NO_MEMORY:
                raise
            raise no_room(gib(count), needed_bytes=count) from err
        self.allocated_bytes += count
        self.peak_bytes = max(self.peak_bytes, self.allocated_bytes)
        # At the interpreter's end the driver frees all at once.
        weakref.finalize(owner, self._free, address, count).atexit = False
        return address

    def _free(self, address: int, count: int) -> None:
        self.allocated_bytes -= count
        self._releases.release("cudaFree", address)


def memory_info() -> tuple[int, int]:
    """Bytes that the GPU has free, and in all, whoever uses them. Raises DeviceError."""
    free, total = call("cudaMemGetInfo", doing="asking for free memory")
    return int(free), int(total)


def no_room(what: str, hint: str = "", needed_bytes: int = 0) -> DeviceMemoryError:
    """The error for something that the GPU had no memory for, with what it had."""
    free, total = memory_info()
    return DeviceMemoryError(
        f"the GPU has no room for {what} more: {gib(free)} of {gib(total)} are free",
        hint or "stop other programs on the GPU, or ask for smaller shapes",
        needed_bytes=needed_bytes,
    )


def gib(count: int) -> str:
    """Bytes in words; below a GiB in MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"


class Scratch:
    """A block that engines compute in, one after the other; it lives as long as someone holds it."""

    def __init__(self, heap: Heap, size: int) -> None:
        self.size = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        self.address = heap.allocate(self, self.size)


class CudaTensor(Tensor):
    """A C-contiguous array on the GPU. All its copies are ordered by the device's stream."""

    def __init__(self, heap: Heap, stream: int, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = numpy_dtype(dtype)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self.address = heap.allocate(self, self.nbytes)
        self._stream = stream

    def write(self, array: np.ndarray) -> None:
        """Copies a host array in and waits, so that the caller may change it: not for the hot loop.

        Raises ShapeError for another shape or dtype, DeviceError if earlier work failed.
        """
        if (array.shape, array.dtype) != (self.shape, self.dtype):
            found, expected = f"{array.dtype.name}{array.shape}", f"{self.dtype.name}{self.shape}"
            raise ShapeError(f"a tensor on the GPU cannot take these values: found {found}, expected {expected}")
        source = np.ascontiguousarray(array)
        self._copy(self.address, source.ctypes.data, "cudaMemcpyHostToDevice", "copying to the GPU")
        call("cudaStreamSynchronize", self._stream, doing="waiting for a copy to the GPU")

    def read(self) -> np.ndarray:
        """A host copy, once everything enqueued before is done. Raises DeviceError."""
        array = np.empty(self.shape, self.dtype)
        self._copy(array.ctypes.data, self.address, "cudaMemcpyDeviceToHost", "copying from the GPU")
        call("cudaStreamSynchronize", self._stream, doing="waiting for a copy from the GPU")
        return array

    def copy_from(self, other: Tensor) -> None:
        """Enqueues a copy from another tensor on the device; may be part of a replay."""
        assert isinstance(other, CudaTensor)
        assert (other.shape, other.dtype) == (self.shape, self.dtype)
        self._copy(self.address, other.address, "cudaMemcpyDeviceToDevice", "copying on the GPU")

    def _copy(self, target: int, source: int, kind: str, doing: str) -> None:
        if self.nbytes:
            call("cudaMemcpyAsync", target, source, self.nbytes, copy_kind(kind), self._stream, doing=doing)


def copy_kind(name: str) -> Any:
    """CUDA's enumerator for the direction of a copy."""
    return getattr(api.cudart.cudaMemcpyKind, name)
