"""The host as a device: tensors over numpy memory."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from hsengines.backend import Device, Enqueue, Mark, Replay, Tensor
from hsengines.dtypes import numpy_dtype


class HostTensor(Tensor):
    """A C-contiguous numpy array whose address never changes."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = numpy_dtype(dtype)
        self.array = np.empty(shape, self.dtype)

    @property
    def address(self) -> int:
        """Where the first element lies."""
        return self.array.ctypes.data

    def write(self, array: np.ndarray) -> None:
        """Copies a host array in."""
        np.copyto(self.array, array, casting="no")

    def read(self) -> np.ndarray:
        """A copy that later steps will not change."""
        return self.array.copy()

    def copy_from(self, other: Tensor) -> None:
        """Copies another host tensor."""
        assert isinstance(other, HostTensor)
        np.copyto(self.array, other.array, casting="no")


class PlainReplay(Replay):
    """A sequence whose parts are enqueued one after the other."""

    def __init__(self, sequence: Sequence[Enqueue]) -> None:
        self._sequence = tuple(sequence)

    def launch(self) -> None:
        """Nothing but the calls."""
        for enqueue in self._sequence:
            enqueue()

    def close(self) -> None:
        """Lets the bindings go."""
        self._sequence = ()


class Reached(Mark):
    """A point that is passed already: on a CPU nothing is asynchronous."""

    def wait(self) -> None:
        """Returns at once."""


class HostDevice(Device):
    """The CPU; `threads` is how many of its cores engines may use, 0 for all."""

    def __init__(self, threads: int = 0) -> None:
        self.name = "cpu"
        self.threads = threads
        self.allocated_bytes = 0

    def empty(self, shape: tuple[int, ...], dtype: str) -> HostTensor:
        """Uninitialised memory."""
        tensor = HostTensor(shape, dtype)
        self.allocated_bytes += tensor.array.nbytes
        weakref.finalize(tensor, self._freed, tensor.array.nbytes)
        return tensor

    def replay(self, sequence: Sequence[Enqueue]) -> Replay:
        """The calls in order."""
        return PlainReplay(sequence)

    def mark(self) -> Mark:
        """Every call has returned, so everything is done."""
        return Reached()

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def close(self) -> None:
        """The memory belongs to the tensors."""

    def _freed(self, count: int) -> None:
        self.allocated_bytes -= count
