"""The host as a device: tensors over numpy memory."""

from __future__ import annotations

import numpy as np

from hsengines.backend import Device, Tensor


class HostTensor(Tensor):
    """A C-contiguous numpy array whose address never changes."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
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


class HostDevice(Device):
    """The CPU; `threads` is how many of its cores engines may use, 0 for all."""

    def __init__(self, threads: int = 0) -> None:
        self.name = "cpu"
        self.threads = threads

    def empty(self, shape: tuple[int, ...], dtype: str) -> HostTensor:
        """Uninitialised memory."""
        return HostTensor(shape, dtype)
