"""Points in a stream's work, over CUDA events that are used again and again."""

from __future__ import annotations

import weakref
from typing import Any

from hsengines.cuda import api
from hsengines.cuda.api import call
from hsengines.cuda.release import Releases
from hsengines.device import Mark


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
