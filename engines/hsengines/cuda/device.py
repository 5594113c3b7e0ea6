"""A GPU as a device: one stream on which everything is ordered, and at most one beside it."""

from __future__ import annotations

from collections.abc import Sequence

from hsengines.cuda import api
from hsengines.cuda.api import CudaError, call, call_quietly
from hsengines.cuda.memory import CudaTensor, Heap, Releases, memory_info
from hsengines.cuda.replay import CudaMark, CudaReplay, Events
from hsengines.device import Device, Enqueue, Replay
from hsengines.errors import BackendUnavailable, DeviceError


class Stream:
    """A stream, and the scratch memory of the engines that run on it; `handle` is CUDA's as a number."""

    def __init__(self) -> None:
        # Not ordered with the default stream, on which other libraries of the process may work.
        flags = api.cudart.cudaStreamNonBlocking
        self.handle = int(call("cudaStreamCreateWithFlags", flags, doing="creating a stream"))
        self.scratch: CudaTensor | None = None

    def close(self) -> None:
        """Destroys the stream. Never raises; nothing may be enqueued on it afterwards."""
        self.scratch = None
        call_quietly("cudaStreamDestroy", self.handle)


class SideStream(Stream):
    """A stream beside a device's own, for work that may run at the same time, and the two events that tie them."""

    def __init__(self) -> None:
        super().__init__()
        untimed = api.cudart.cudaEventDisableTiming
        self._events = [call("cudaEventCreateWithFlags", untimed, doing="creating an event") for _ in range(2)]

    def fork(self, main: int, first: Sequence[Enqueue], second: Sequence[Enqueue]) -> Enqueue:
        """`first`, which is bound to `main`, and `second`, bound to this stream, between a fork and a join.

        Everything before it on `main` is done before either begins, and `main` goes on when both are done: so it can
        be captured like any other work, and whoever waits for `main` has waited for this stream.
        """
        calls, (forked, joined) = (*second, *first), self._events

        def enqueue() -> None:
            call("cudaEventRecord", forked, main, doing="forking a stream")
            call("cudaStreamWaitEvent", self.handle, forked, 0, doing="forking a stream")
            for each in calls:
                each()
            call("cudaEventRecord", joined, self.handle, doing="joining a stream")
            call("cudaStreamWaitEvent", main, joined, 0, doing="joining a stream")

        return enqueue

    def close(self) -> None:
        """Destroys events and stream. Never raises."""
        while self._events:
            call_quietly("cudaEventDestroy", self._events.pop())
        super().close()


class CudaDevice(Device):
    """The first GPU that CUDA_VISIBLE_DEVICES leaves.

    `graphs` decides what `replay` makes: CUDA graphs, or plain repetition. `stream` is CUDA's handle as a number;
    engines enqueue on it and nowhere else. `total_bytes` is the GPU's memory.
    """

    def __init__(self, graphs: bool = True) -> None:
        """Takes hold of the GPU. Raises DeviceError."""
        call("cudaSetDevice", 0, doing="taking hold of the GPU")
        self.graphs = graphs
        self.name, self.compute_capability = gpu_model()
        self.total_bytes = memory_info()[1]
        self._main = Stream()
        self._side: SideStream | None = None
        self.stream = self._main.handle
        self._releases = Releases(self.stream)
        self._heap = Heap(self._releases)
        self._events = Events(self._releases)
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

    def replay(self, sequence: Sequence[Enqueue]) -> Replay:
        """A CUDA graph of `sequence`, or its plain repetition without `graphs`. Raises DeviceError."""
        return CudaReplay(self.stream, self._releases, sequence) if self.graphs else Replay(sequence)

    def stream_for(self, *, beside: bool) -> Stream:
        """Where an engine runs: the device's own stream or, with `two_streams`, one beside it. Raises DeviceError."""
        if not (beside and self.two_streams):
            return self._main
        self._side = self._side or SideStream()
        return self._side

    def scratch(self, size: int, stream: Stream | None = None) -> CudaTensor:
        """A block of at least `size` bytes that all engines of a stream share, since they run one after the other.

        A larger one than before is a new one; whoever holds the old one keeps it. Raises DeviceMemoryError.
        """
        stream = stream or self._main
        if stream.scratch is None or stream.scratch.nbytes < size:
            stream.scratch = None
            stream.scratch = self.empty((size,), "uint8")
        return stream.scratch

    def fork(self, first: Sequence[Enqueue], second: Sequence[Enqueue]) -> Enqueue:
        """`second` on the second stream, if it was bound there, while `first` runs on the device's own."""
        return self._side.fork(self.stream, first, second) if self._side else super().fork(first, second)

    def mark(self) -> CudaMark:
        """The point that has been reached in enqueueing. Raises DeviceError."""
        return CudaMark(self._events, self.stream)

    def synchronize(self) -> None:
        """Waits for everything enqueued. Raises DeviceError if any of it failed."""
        call("cudaStreamSynchronize", self.stream, doing="waiting for enqueued work")

    def close(self) -> None:
        """Destroys scratch, events and streams. Never raises; may be called again."""
        if self._closed:
            return
        self._closed = True
        self._main.scratch = None
        if self._side is not None:
            call_quietly("cudaStreamSynchronize", self.stream)
            self._side.close()
        self._events.close()
        self._releases.stream_is_gone()
        call_quietly("cudaStreamSynchronize", self.stream)
        self._main.close()


def open_device(graphs: bool = True, kind: type[CudaDevice] = CudaDevice) -> CudaDevice:
    """The GPU. Raises BackendUnavailable, in CUDA's own words, if there is none to be had."""
    if why := why_no_cuda():
        raise BackendUnavailable(why, "run the bundle on a machine with an NVIDIA GPU, or build one for ort-cpu")
    try:
        return kind(graphs)
    except DeviceError as err:
        raise BackendUnavailable(f"the GPU cannot be used: {err.message}", "see what nvidia-smi says of it") from err


def gpu_model() -> tuple[str, int]:
    """The GPU's name and compute capability, 89 for 8.9. Raises DeviceError."""
    properties = call("cudaGetDeviceProperties", 0, doing="asking what the GPU is")
    return properties.name.partition(b"\0")[0].decode(), 10 * int(properties.major) + int(properties.minor)


def why_no_cuda() -> str:
    """Why CUDA cannot be used here, in words; empty if it finds a GPU. Takes no hold of the GPU."""
    try:
        if call("cudaGetDeviceCount", doing="counting GPUs"):
            return ""
    except CudaError as err:
        return f"there is no GPU to be used: {err.message}{_meaning(err.code)}"
    return "there is no GPU to be used: CUDA counts none"


def _meaning(code: str) -> str:
    """What cudaErrorInsufficientDriver comes from, which its own words leave open."""
    if code != "cudaErrorInsufficientDriver":
        return ""
    driver = call("cudaDriverGetVersion", doing="asking for the driver's version")
    if not driver:
        return "; this machine has no NVIDIA driver"
    needed = call("cudaRuntimeGetVersion", doing="asking for the runtime's version")
    return f"; the NVIDIA driver is for CUDA {_release(driver)}, older than CUDA {_release(needed)} needs"


def _release(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
