"""Device memory: an account of it, tensors over it, the block that engines work in, and how all of it is given back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np

from hsengines.cuda import api
from hsengines.cuda.api import NO_MEMORY, CudaError, call, call_quietly
from hsengines.device import Tensor
from hsengines.errors import DeviceMemoryError, ShapeError
from hsengines.spec import numpy_dtype


class Releases:
    """Takes what finalizers drop and gives it back once the stream is done with it.

    Work that was enqueued may still use a tensor whose last reference is gone, and CUDA keeps no account of what a
    captured graph refers to: so the stream is waited for first. While a capture is on, waiting and freeing would
    break it, so both are put off to its end. Finalizers run in any thread at any time, hence the lock.
    """

    def __init__(self, stream: int) -> None:
        self._stream: int | None = stream
        self._lock = RLock()
        self._held = False
        self._waiting: list[tuple[str, Any]] = []

    def release(self, function: str, handle: Any) -> None:
        """Calls CUDA's `function` on `handle`, now or at the end of the capture. Never raises."""
        with self._lock:
            if self._held:
                self._waiting.append((function, handle))
                return
            if self._stream is not None:
                call_quietly("cudaStreamSynchronize", self._stream)
            call_quietly(function, handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Puts releases off while a capture is on, and garbage collection with them.

        A collection could destroy an engine, and what an engine's own destructor calls would break the capture.
        """
        collecting = gc.isenabled()
        gc.disable()
        with self._lock:
            self._held = True
        try:
            yield
        finally:
            with self._lock:
                self._held = False
                waiting, self._waiting = self._waiting, []
            for function, handle in waiting:
                self.release(function, handle)
            if collecting:
                gc.enable()

    def stream_is_gone(self) -> None:
        """From here on there is nothing to wait for."""
        with self._lock:
            self._stream = None


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


class CudaTensor(Tensor):
    """A C-contiguous array on the GPU. All its copies are ordered by the device's stream."""

    def __init__(
        self, heap: Heap, stream: int, shape: tuple[int, ...], dtype: str, of: CudaTensor | None = None
    ) -> None:
        """Of its own memory, or of the last part of another's."""
        self.shape = shape
        self.dtype = numpy_dtype(dtype)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self.address = of.address + of.nbytes - self.nbytes if of else heap.allocate(self, self.nbytes)
        self._heap, self._stream, self._of = heap, stream, of

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

    def tail(self, count: int) -> CudaTensor:
        """Keeps the whole alive."""
        return CudaTensor(self._heap, self._stream, (count, *self.shape[1:]), self.dtype.name, self)

    def _copy(self, target: int, source: int, kind: str, doing: str) -> None:
        if self.nbytes:
            direction = getattr(api.cudart.cudaMemcpyKind, kind)
            call("cudaMemcpyAsync", target, source, self.nbytes, direction, self._stream, doing=doing)
