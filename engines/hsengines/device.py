"""Where tensors live and engines run, and the host as one such place."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hsengines.spec import numpy_dtype

Enqueue = Callable[[], None]
"""Puts one piece of work on a device; may return before it is done."""


class Tensor(ABC):
    """Memory on a device with a shape and a dtype; owned by whoever made it, alive as long as it is referenced."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    """Where its first element lies."""

    @abstractmethod
    def write(self, array: np.ndarray) -> None:
        """Copies a host array of the same shape and dtype in."""

    @abstractmethod
    def read(self) -> np.ndarray:
        """A host copy."""

    @abstractmethod
    def copy_from(self, other: Tensor) -> None:
        """Copies another tensor of the same shape and dtype on the device."""

    @abstractmethod
    def tail(self, count: int) -> Tensor:
        """The last `count` along the first dimension, in the very same memory."""


Tensors = Mapping[str, Tensor]
"""An engine's inputs or outputs by name."""


class Replay:
    """A fixed sequence of work, ready to be repeated: call by call, or a CUDA graph where the device has them."""

    def __init__(self, sequence: Sequence[Enqueue]) -> None:
        self._sequence = tuple(sequence)

    def launch(self) -> None:
        """Enqueues the whole sequence once."""
        for enqueue in self._sequence:
            enqueue()

    def close(self) -> None:
        """Frees what the replay holds; to be called before what it replays is closed."""
        self._sequence = ()


class Mark:
    """A point in a device's work; on a CPU nothing is asynchronous, so it has been passed already."""

    def wait(self) -> None:
        """Returns when everything enqueued before the mark is done. Raises DeviceError if any of it failed."""


class Device(ABC):
    """A place where tensors live and engines run, in the order in which work is enqueued."""

    name: str
    allocated_bytes: int
    """What tensors made here hold at present."""
    two_streams: bool = False
    """Whether `fork` may run its two sequences at the same time, where the device can."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Uninitialised memory. Raises DeviceMemoryError."""

    def replay(self, sequence: Sequence[Enqueue]) -> Replay:
        """Makes `sequence` repeatable. On a GPU this runs it once to warm up, so its buffers must hold sane values."""
        return Replay(sequence)

    def mark(self) -> Mark:
        """The point that has been reached in enqueueing."""
        return Mark()

    @abstractmethod
    def synchronize(self) -> None:
        """Waits for everything enqueued. Raises DeviceError."""

    @abstractmethod
    def close(self) -> None:
        """Frees the device's own memory; its tensors, replays and engines must be gone."""

    def fork(self, first: Sequence[Enqueue], second: Sequence[Enqueue]) -> Enqueue:
        """Both sequences as one piece of work, done when both are; neither may read what the other writes.

        Engines of the second are bound `beside` the first's.
        """
        return Replay((*first, *second)).launch

    def upload(self, array: np.ndarray) -> Tensor:
        """A new tensor holding `array`."""
        tensor = self.empty(array.shape, array.dtype.name)
        tensor.write(array)
        return tensor


class HostTensor(Tensor):
    """A C-contiguous numpy array whose address never changes."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.address = self.array.ctypes.data

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

    def tail(self, count: int) -> HostTensor:
        """A view."""
        return HostTensor(self.array[self.shape[0] - count :])


class HostDevice(Device):
    """Memory of the host, for engines that run on the CPU or fetch their tensors from there; `name` is the engines'."""

    allocated_bytes = 0

    def __init__(self, name: str = "CPU") -> None:
        self.name = name

    def empty(self, shape: tuple[int, ...], dtype: str) -> HostTensor:
        """Uninitialised memory."""
        tensor = HostTensor(np.empty(shape, numpy_dtype(dtype)))
        self.allocated_bytes += tensor.array.nbytes
        weakref.finalize(tensor, self._freed, tensor.array.nbytes)
        return tensor

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def close(self) -> None:
        """The memory belongs to the tensors."""

    def _freed(self, count: int) -> None:
        self.allocated_bytes -= count
