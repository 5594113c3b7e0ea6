"""Work on a stream: sequences of it as CUDA graphs, and points in it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from hsengines.cuda import api
from hsengines.cuda.api import NO_MEMORY, CudaError, call, call_quietly
from hsengines.cuda.memory import Releases, no_room
from hsengines.device import Enqueue, Mark, Replay
from hsengines.errors import DeviceError

WITHOUT = "run without graphs (--no-graphs)"


class CudaReplay(Replay):
    """A captured sequence; keeps alive what it replays, since the graph itself knows addresses only."""

    def __init__(self, stream: int, releases: Releases, sequence: Sequence[Enqueue]) -> None:
        """Runs `sequence` once, which changes what it writes, and captures it. Raises DeviceError."""
        super().__init__(sequence)
        self._stream = stream
        self._graph = _capture(stream, releases, self._sequence)
        self._finalizer = weakref.finalize(self, releases.release, "cudaGraphExecDestroy", self._graph)
        self._finalizer.atexit = False

    def launch(self) -> None:
        """One call, however long the sequence. Raises DeviceError, also for a replay that is closed."""
        if not self._finalizer.alive:
            raise DeviceError("a replay that is closed cannot be launched")
        call("cudaGraphLaunch", self._graph, self._stream, doing="launching a captured sequence")

    def close(self) -> None:
        """Waits for launches under way, destroys the graph, lets go of what it replayed. May be called again."""
        self._finalizer()
        super().close()


def _capture(stream: int, releases: Releases, sequence: Sequence[Enqueue]) -> Any:
    """The executable graph of `sequence`."""
    # Engines allocate and pick kernels on their first run, which a capture does not permit.
    for enqueue in sequence:
        enqueue()
    call("cudaStreamSynchronize", stream, doing="running a sequence for the first time")
    try:
        return _instantiate(_record(stream, releases, sequence), stream)
    except DeviceError as err:
        if isinstance(err, CudaError) and err.code == NO_MEMORY:
            raise no_room("one CUDA graph", WITHOUT) from err
        raise DeviceError(f"a sequence could not be captured as a CUDA graph: {err.message}", WITHOUT) from err


def _record(stream: int, releases: Releases, sequence: Sequence[Enqueue]) -> Any:
    """The graph of what `sequence` enqueues. Leaves no capture open, whatever happens."""
    mode = api.cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    with releases.held():
        call("cudaStreamBeginCapture", stream, mode, doing="beginning a capture")
        try:
            for enqueue in sequence:
                enqueue()
        except BaseException:
            _, graph = api.cudart.cudaStreamEndCapture(stream)
            if graph:
                call_quietly("cudaGraphDestroy", graph)
            api.cudart.cudaGetLastError()
            raise
        return call("cudaStreamEndCapture", stream, doing="capturing")


def _instantiate(graph: Any, stream: int) -> Any:
    """Makes `graph` executable, uploads it so that its first launch costs no more than others, and destroys it."""
    try:
        executable = call("cudaGraphInstantiate", graph, 0, doing="instantiating a graph")
    finally:
        call_quietly("cudaGraphDestroy", graph)
    try:
        call("cudaGraphUpload", executable, stream, doing="uploading a graph")
        call("cudaStreamSynchronize", stream, doing="uploading a graph")
    except BaseException:
        call_quietly("cudaGraphExecDestroy", executable)
        raise
    return executable


class Events:
    """Events that no mark uses at present."""

    def __init__(self, releases: Releases) -> None:
        self._idle: list[Any] = []
        self._releases = releases
        self._closed = False

    def take(self) -> Any:
        """An idle event, or a new one. Raises DeviceError."""
        if self._idle:
            return self._idle.pop()
        return call("cudaEventCreateWithFlags", api.cudart.cudaEventDisableTiming, doing="creating an event")

    def give_back(self, event: Any) -> None:
        """Keeps the event for the next mark."""
        if self._closed:
            self._releases.release("cudaEventDestroy", event)
        else:
            self._idle.append(event)

    def close(self) -> None:
        """Destroys the idle events; those in use follow as their marks go."""
        self._closed = True
        while self._idle:
            self._releases.release("cudaEventDestroy", self._idle.pop())


class CudaMark(Mark):
    """An event recorded in the stream."""

    def __init__(self, events: Events, stream: int) -> None:
        self._event = events.take()
        weakref.finalize(self, events.give_back, self._event).atexit = False
        call("cudaEventRecord", self._event, stream, doing="recording an event")

    def wait(self) -> None:
        """Returns when everything enqueued before the mark is done. Raises DeviceError if any of it failed."""
        call("cudaEventSynchronize", self._event, doing="waiting for enqueued work")
