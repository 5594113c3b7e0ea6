"""A GPU as a device: one stream on which everything is ordered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hsengines.cuda import api
from hsengines.cuda.api import call, call_quietly
from hsengines.cuda.mark import CudaMark, Events
from hsengines.cuda.memory import CudaTensor, Heap, Scratch, memory_info
from hsengines.cuda.release import Releases
from hsengines.cuda.replay import CudaReplay
from hsengines.cuda.side import SideStream
from hsengines.device import Device, Enqueue, PlainReplay, Replay


class CudaDevice(Device):
    """The first GPU that CUDA_VISIBLE_DEVICES leaves.

    `graphs` decides what `replay` makes: CUDA graphs, or plain repetition. `stream` is CUDA's handle as a number;
    engines enqueue on it and nowhere else. `compute_capability` is 89 for 8.9. `total_bytes` is the GPU's memory.
    """

    def __init__(self, graphs: bool = True) -> None:
        """Takes hold of the GPU. Raises DeviceError."""
        call("cudaSetDevice", 0, doing="taking hold of the GPU")
        properties = call("cudaGetDeviceProperties", 0, doing="asking what the GPU is")
        self.graphs = graphs
        self.name = properties.name.partition(b"\0")[0].decode()
        self.compute_capability = 10 * int(properties.major) + int(properties.minor)
        self.total_bytes = memory_info()[1]
        # Not ordered with the default stream, on which other libraries of the process may work.
        flags = api.cudart.cudaStreamNonBlocking
        self.stream = int(call("cudaStreamCreateWithFlags", flags, doing="creating a stream"))
        self._releases = Releases(self.stream)
        self._heap = Heap(self._releases)
        self._events = Events(self._releases)
        self._scratch: Scratch | None = None
        self._side: SideStream | None = None
        self._closed = False

    @property
    def allocated_bytes(self) -> int:  # type: ignore[override]
        """What tensors and scratch made here hold at present; engines' weights are not counted."""
        return self._heap.allocated_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that `allocated_bytes` ever was."""
        return self._heap.peak_bytes

    @property
    def free_bytes(self) -> int:
        """What the GPU has left, whoever uses the rest. Raises DeviceError."""
        return memory_info()[0]

    def empty(self, shape: tuple[int, ...], dtype: str) -> CudaTensor:
        """Uninitialised memory. Raises DeviceMemoryError."""
        return CudaTensor(self._heap, self.stream, shape, dtype)

    def scratch(self, size: int) -> Scratch:
        """A block of at least `size` bytes that all engines share, since they run one after the other.

        A larger one than before is a new one; whoever holds the old one keeps it. Raises DeviceMemoryError.
        """
        if self._scratch is None or self._scratch.size < size:
            self._scratch = None
            self._scratch = Scratch(self._heap, size)
        return self._scratch

    def replay(self, sequence: Sequence[Enqueue]) -> Replay:
        """A CUDA graph of `sequence`, or its plain repetition without `graphs`.

        A graph takes one run beforehand, which changes what the sequence writes: capture before writing real values.
        Raises DeviceError.
        """
        return CudaReplay(self.stream, self._releases, sequence) if self.graphs else PlainReplay(sequence)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """With `two_streams`, engines bound inside run on a second stream, in scratch memory of its own.

        Raises DeviceError.
        """
        if not self.two_streams:
            yield
            return
        side = self._side = self._side or SideStream()
        main, own = self.stream, self._scratch
        self.stream, self._scratch = side.stream, side.scratch
        try:
            yield
        finally:
            side.scratch = self._scratch
            self.stream, self._scratch = main, own

    def fork(self, first: Sequence[Enqueue], second: Sequence[Enqueue]) -> Enqueue:
        """`second` on the second stream, if it was bound there, while `first` runs on the device's own."""
        if not self.two_streams or self._side is None:
            return super().fork(first, second)
        return self._side.fork(self.stream, first, second)

    def mark(self) -> CudaMark:
        """The point that has been reached in enqueueing. Raises DeviceError."""
        return CudaMark(self._events, self.stream)

    def synchronize(self) -> None:
        """Waits for everything enqueued. Raises DeviceError if any of it failed."""
        call("cudaStreamSynchronize", self.stream, doing="waiting for enqueued work")

    def close(self) -> None:
        """Destroys scratch, events and stream. Never raises; may be called again."""
        if self._closed:
            return
        self._closed = True
        self._scratch = None
        if self._side is not None:
            call_quietly("cudaStreamSynchronize", self.stream)
            self._side.close()
        self._events.close()
        self._releases.stream_is_gone()
        call_quietly("cudaStreamSynchronize", self.stream)
        call_quietly("cudaStreamDestroy", self.stream)
